//go:build unix

package ledger

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// A disk that fills up while a payment is being committed keeps nothing of it.
// The limit on file sizes stands for the disk: it takes effect in the write-ahead
// log, in the middle of the commit.
func TestFullInCommit(t *testing.T) {
	db := openFile(t)
	var path string
	if err := db.read.QueryRow(`SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var unlimited syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &unlimited); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &unlimited); err != nil {
			t.Fatal(err)
		}
	}
	defer restore()
	failed := 0
	for room := int64(0); ; room += 2 << 10 {
		log, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		limit := unlimited
		limit.Cur = uint64(log.Size() + room)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		_, repeated, err := db.Pay(t.Context(), order("r1", fmt.Sprint("h", room)))
		if err != nil {
			limit.Cur = 0
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				unavailable(t, db.Ready(t.Context()))
				ctx, end := WithPlace(t.Context())
				unavailable(t, db.Reserve(ctx))
				end()
			}
		}
		restore()
		if err != nil {
			if err := db.Ready(t.Context()); err != nil {
				t.Errorf("once the disk has room again: %v", err)
			}
		}
		n := count(t, db)
		if err == nil {
			if repeated || n != 1 {
				t.Errorf("with room for %d bytes: paid, repeated %v, %d payments", room, repeated, n)
			}
			break
		}
		unavailable(t, err)
		failed++
		if n != 0 {
			t.Fatalf("with room for %d bytes: %v, but %d payments", room, err, n)
		}
	}
	if failed == 0 {
		t.Error("the limit had no effect")
	}
}
