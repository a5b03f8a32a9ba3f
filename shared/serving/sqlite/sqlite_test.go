package sqlite

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modernc.org/sqlite"
)

// errNo is an answer: nothing has failed.
var errNo = errors.New("no")

func isNo(err error) bool { return errors.Is(err, errNo) }

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(t.Context(), path, isNo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// table returns a database with a table of numbers.
func table(t testing.TB) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	if err := f.Change(t.Context(), statement(`CREATE TABLE numbers (n BIGINT)`)); err != nil {
		t.Fatal(err)
	}
	return f, path
}

func statement(text string) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, text)
		return err
	}
}

func insert(n int) func(context.Context, *sql.Tx) error {
	return statement(fmt.Sprintf(`INSERT INTO numbers VALUES (%d)`, n))
}

func count(t testing.TB, f *File, n int) (found int) {
	t.Helper()
	if err := f.Read.QueryRow(`SELECT COUNT(*) FROM numbers WHERE n = $1`, n).Scan(&found); err != nil {
		t.Fatal(err)
	}
	return found
}

// waitFor waits until so many changes wait in a queue.
func waitFor(w *writer, queue *[]*change, met func(n int) bool) {
	for {
		w.mu.Lock()
		n := len(*queue)
		w.mu.Unlock()
		if met(n) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Changes that wait are committed together: one that is refused, or withdrawn,
// leaves its neighbours alone.
func TestChangesTogether(t *testing.T) {
	f, _ := table(t)
	var (
		wg       sync.WaitGroup
		answered atomic.Int64
	)
	withdrawn, withdraw := context.WithCancel(t.Context())
	f.writer.making <- struct{}{}
	for range 20 {
		wg.Go(func() {
			if err := f.Change(t.Context(), insert(1)); err != nil {
				t.Error(err)
			}
			answered.Add(1)
		})
		wg.Go(func() {
			err := f.Change(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
				return errors.Join(insert(1)(ctx, tx), errNo)
			})
			if !isNo(err) {
				t.Errorf("a refused neighbour: got %v", err)
			}
		})
		wg.Go(func() {
			if err := f.Change(withdrawn, insert(1)); !errors.Is(err, context.Canceled) {
				t.Errorf("a withdrawn neighbour: got %v, want Canceled", err)
			}
		})
	}
	waitFor(f.writer, &f.writer.waiting, func(n int) bool { return n == 60 })
	withdraw()
	waitFor(f.writer, &f.writer.waiting, func(n int) bool { return n == 40 })
	if answered.Load() != 0 {
		t.Error("a change was acknowledged that cannot have been made")
	}
	<-f.writer.making
	wg.Wait()
	if n := count(t, f, 1); n != 20 {
		t.Errorf("%d rows, want 20", n)
	}
}

// What takes back passes all who wait, and does not fail with them.
func TestChangeFirst(t *testing.T) {
	f, _ := table(t)
	var wg sync.WaitGroup
	var before atomic.Int64
	failure := errors.New("the disk is full")
	f.writer.making <- struct{}{}
	for range 5 * together {
		wg.Go(func() {
			err := f.Change(t.Context(), func(context.Context, *sql.Tx) error { before.Add(1); return failure })
			if !errors.Is(err, failure) {
				t.Errorf("got %v", err)
			}
		})
	}
	waitFor(f.writer, &f.writer.waiting, func(n int) bool { return n == 5*together })
	wg.Go(func() {
		err := f.ChangeFirst(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			if n := before.Load(); n > 0 {
				t.Errorf("%d others came before", n)
			}
			return insert(2)(ctx, tx)
		})
		if err != nil {
			t.Error(err)
		}
		for before.Load() < 5 { // who takes back without end keeps nobody out
			if err := f.ChangeFirst(t.Context(), insert(3)); err != nil {
				t.Error(err)
			}
		}
	})
	waitFor(f.writer, &f.writer.first, func(n int) bool { return n == 1 })
	<-f.writer.making
	wg.Wait()
	if n := count(t, f, 2); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

// Where another's change panics in the turn of a caller, the caller's own is not left
// behind: it would be made, for nobody.
func TestPanicOfAnother(t *testing.T) {
	f, _ := table(t)
	w := f.writer
	w.making <- struct{}{}
	w.mu.Lock()
	w.passed = true // those who wait have a turn before what goes first
	w.waiting = append(w.waiting, &change{do: func(context.Context, *sql.Tx) error { panic("no") }, made: make(chan struct{})})
	w.mu.Unlock()
	ended := make(chan any)
	go func() {
		defer func() { ended <- recover() }()
		_ = f.ChangeFirst(context.Background(), insert(1))
	}()
	waitFor(w, &w.first, func(n int) bool { return n == 1 })
	<-w.making
	if cause := <-ended; cause != "no" {
		t.Errorf("the turn ended with %v", cause)
	}
	if err := f.Change(t.Context(), insert(2)); err != nil {
		t.Error(err)
	}
	if n, m := count(t, f, 1), count(t, f, 2); n != 0 || m != 1 {
		t.Errorf("%d and %d rows, want 0 and 1", n, m)
	}
}

// I04: what takes back has room when nothing else has.
func TestI04NearlyFullDisk(t *testing.T) {
	f, path := table(t)
	if room, err := roomAt(path); err != nil || room == 0 {
		t.Errorf("%d bytes are left, %v", room, err)
	}
	var left atomic.Uint64
	f.writer.room = func() (uint64, error) { return left.Load(), nil }
	for room, fits := range map[uint64]bool{0: false, reserve - 1: false, reserve: true} {
		left.Store(room)
		if err := f.Change(t.Context(), insert(1)); (err == nil) != fits || err != nil && !errors.Is(err, errNearlyFull) {
			t.Errorf("with %d bytes left: %v", room, err)
		}
		if err := f.Ready(t.Context(), "numbers"); (err == nil) != fits || err != nil && !errors.Is(err, errNearlyFull) {
			t.Errorf("ready with %d bytes left: %v", room, err)
		}
		if err := f.ChangeFirst(t.Context(), insert(2)); err != nil {
			t.Errorf("what takes back, with %d bytes left: %v", room, err)
		}
	}
	if n, m := count(t, f, 1), count(t, f, 2); n != 1 || m != 3 {
		t.Errorf("%d and %d rows, want 1 and 3", n, m)
	}
	if err := f.Ready(t.Context(), "letters"); err == nil {
		t.Error("ready without its table")
	}
}

// What is acknowledged is on disk: kill -9 and a power cut lose none of it.
func TestWriterIsDurable(t *testing.T) {
	f, _ := table(t)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		err := f.Change(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			var got string
			if err := tx.QueryRowContext(ctx, `PRAGMA `+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %q, %v; want %q", pragma, got, err, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := f.Read.Exec(`DELETE FROM numbers`); err == nil {
		t.Error("a reader can write")
	}
}

// Many open a new file at once, as servers and commands do after a boot.
func TestOpenAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			f, err := Open(t.Context(), path, isNo)
			if err == nil {
				err = errors.Join(f.Change(t.Context(), statement(`CREATE TABLE IF NOT EXISTS numbers (n BIGINT)`)), f.Close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, file := range []string{path, path + "-turn", path + "-first"} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", filepath.Base(file), info.Mode(), err)
		}
	}
}

// asWriter has this test's binary be a process that writes to the file that it
// names, from 64 callers without a pause, with commits of 20 ms.
const asWriter = "HANDOFF_TEST_AS_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(asWriter); path != "" {
		writeWithoutPause(path)
	}
	os.Exit(m.Run())
}

func writeWithoutPause(path string) {
	go func() { // it ends with the test, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	slow(20 * time.Millisecond)
	f, err := Open(context.Background(), path, isNo)
	if err != nil {
		panic(err)
	}
	for range 64 {
		go func() {
			for {
				switch err := f.Change(context.Background(), insert(0)); {
				case err == nil:
					fmt.Println("made")
				case !errors.Is(err, context.DeadlineExceeded): // else the machine is busy
					fmt.Println(err)
				}
			}
		}()
	}
	select {}
}

// slow has each commit of this process take its time, as a slow disk would.
func slow(commit time.Duration) {
	db, err := sql.Open("sqlite", "")
	if err != nil {
		panic(err)
	}
	db.Driver().(*sqlite.Driver).RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, _ string) error {
		conn.(sqlite.HookRegisterer).RegisterCommitHook(func() int32 { time.Sleep(commit); return 0 })
		return nil
	})
}

// busy starts such a process, and returns a count of what it has written.
func busy(t *testing.T, path string) *atomic.Int64 {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), asWriter+"="+path)
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var made atomic.Int64
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if lines.Text() != "made" {
				t.Errorf("the busy process: %s", lines.Text())
			}
			made.Add(1)
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	for made.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	return &made
}

// I04: beside processes that write without a pause, each change of another one
// has its turn, and none of them stands still.
func TestTurns(t *testing.T) {
	t.Parallel()
	for _, processes := range []int{1, 3} {
		t.Run(strconv.Itoa(processes), func(t *testing.T) {
			t.Parallel()
			f, path := table(t)
			var all []*atomic.Int64
			for range processes {
				all = append(all, busy(t, path))
			}
			longest := time.Duration(0)
			for range 20 {
				began := time.Now()
				other, err := Open(t.Context(), path, isNo)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(other.ChangeFirst(t.Context(), insert(3)), other.Close()); err != nil {
					t.Fatal(err)
				}
				longest = max(longest, time.Since(began))
			}
			if n := count(t, f, 3); n != 20 {
				t.Errorf("%d changes were made, want 20", n)
			}
			t.Logf("the longest took %s", longest)
			if longest > 20*time.Second { // a second, on a machine that is not busy
				t.Errorf("one change took %s", longest)
			}
			for i, made := range all {
				if made.Load() < 64 {
					t.Errorf("process %d made %d changes", i, made.Load())
				}
			}
		})
	}
}

// A process that is killed in its turn leaves the turn to others.
func TestKilledInItsTurn(t *testing.T) {
	f, path := table(t)
	other, err := openTurn(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.take(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := f.writer.turn.take(ctx, true); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
	if err := other.close(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	if err := f.Change(t.Context(), insert(1)); err != nil {
		t.Error(err)
	}
}
