package account

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/handoff-auth/handoff/server1/internal/database"
)

// work counts the hashes that are made, and makes cheap ones.
type work struct{ hashes atomic.Int64 }

func (w *work) derive(password, salt []byte, passes, memory uint32, threads uint8, size uint32) []byte {
	w.hashes.Add(1)
	if memory != usual.memory || passes != usual.passes || threads != usual.threads {
		w.hashes.Add(1000) // not the same work
	}
	return argon2.IDKey(password, salt, 1, 8, 1, size)
}

func newDirectory(t *testing.T) (*Directory, *work) {
	t.Helper()
	db, err := database.Open(t.Context(), filepath.Join(t.TempDir(), "server1.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &work{}
	hasher := NewHasher()
	hasher.derive = w.derive
	return NewDirectory(db, hasher, time.Now), w
}

const password = "correct horse"

// Whether there is such a user shows neither in the answer nor in the
// work.
func TestH06H07SameWorkForAll(t *testing.T) {
	d, w := newDirectory(t)
	alice, err := d.Add(t.Context(), "alice", []string{"reader", "payer", "reader"}, password)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(alice.Roles, " ") != "payer reader" {
		t.Errorf("roles %q are not in order, each once", alice.Roles)
	}
	for name, c := range map[string]struct {
		user, password string
		denied         bool
		known          string
	}{
		"the right password":     {"alice", password, false, ""},
		"a wrong password":       {"alice", "correct hors", true, alice.ID},
		"an empty password":      {"alice", "", true, alice.ID},
		"nobody":                 {"bob", password, true, ""},
		"nobody, empty password": {"bob", "", true, ""},
	} {
		w.hashes.Store(0)
		got, err := d.Authenticate(t.Context(), "192.0.2.0/24", c.user, c.password)
		if n := w.hashes.Load(); n != 1 {
			t.Errorf("%s: %d hashes, want 1", name, n)
		}
		var denied *DeniedError
		switch {
		case !c.denied && (err != nil || got.ID != alice.ID):
			t.Errorf("%s: got %v, %v", name, got, err)
		case c.denied && (!errors.As(err, &denied) || denied.UserID != c.known || got.ID != ""):
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	d, w := newDirectory(t)
	for name, c := range map[string]struct {
		user     string
		role     string
		password string
	}{
		"no name":          {"", "payer", password},
		"a capital":        {"Alice", "payer", password},
		"a space":          {"a b", "payer", password},
		"a long name":      {strings.Repeat("a", 65), "payer", password},
		"an empty role":    {"alice", "", password},
		"two roles in one": {"alice", "payer reader", password},
		"a short password": {"alice", "payer", "1234567"},
		"a long password":  {"alice", "payer", strings.Repeat("x", 257)},
	} {
		if _, err := d.Add(t.Context(), c.user, []string{c.role}, c.password); err == nil {
			t.Errorf("%s: added", name)
		}
	}
	if n := w.hashes.Load(); n != 0 {
		t.Errorf("%d passwords hashed for nothing", n)
	}
	if _, err := d.Add(t.Context(), "alice", nil, password); err != nil {
		t.Error(err)
	}
	if _, err := d.Add(t.Context(), "alice", nil, password); !errors.Is(err, database.ErrNameTaken) {
		t.Errorf("a second alice: got %v, want ErrNameTaken", err)
	}
}

// The real function, with its real cost.
func TestHash(t *testing.T) {
	h := NewHasher()
	phc, err := h.Hash(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(phc, "$argon2id$v=19$m=19456,t=2,p=1$") || len(phc) != len("$argon2id$v=19$m=19456,t=2,p=1$")+22+1+43 {
		t.Errorf("%s is not the PHC string of the cost that is documented", phc)
	}
	if again, err := h.Hash(t.Context(), password); err != nil || again == phc {
		t.Errorf("the salt is not new: %v", err)
	}
	for _, c := range []struct {
		password string
		want     bool
	}{{password, true}, {password + " ", false}, {"", false}} {
		if got, err := h.matches(t.Context(), phc, c.password, h.known); err != nil || got != c.want {
			t.Errorf("%q: got %v, %v; want %v", c.password, got, err, c.want)
		}
	}
}

// Made by the reference implementation's command: argon2 somesaltsomesalt -id
// -t 2 -k 19456 -p 1 -l 32 -e.
func TestMatchesTheReference(t *testing.T) {
	const phc = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$k9ohroejZy1PN5E1SbHNPug6vB8eQAahb5SOAp6iGF4"
	h := NewHasher()
	if ok, err := h.matches(t.Context(), phc, password, h.known); !ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
}

func TestMalformedHashes(t *testing.T) {
	h := NewHasher()
	w := &work{}
	h.derive = w.derive
	good := stored{usual, make([]byte, saltSize), make([]byte, keySize)}.String()
	if _, err := h.matches(t.Context(), good, password, h.known); err != nil {
		t.Fatal(err)
	}
	w.hashes.Store(0)
	for _, phc := range []string{
		"x", "plaintext", strings.Replace(good, "argon2id", "argon2i", 1), strings.Replace(good, "v=19", "v=16", 1),
		strings.Replace(good, "m=19456", "m=1", 1), strings.Replace(good, "m=19456", "m=4194304", 1),
		strings.Replace(good, "m=19456", "m=019456", 1), strings.Replace(good, "t=2", "t=0", 1), strings.Replace(good, "t=2", "t=99", 1),
		strings.Replace(good, "p=1", "p=0", 1), strings.Replace(good, "p=1", "p=1,x=2", 1), good + "$", good + "A", good[:len(good)-1],
		" " + good, strings.Replace(good, "$AAAA", "$!AAA", 1),
	} {
		if ok, err := h.matches(t.Context(), phc, password, h.known); ok || err == nil || strings.Contains(err.Error(), phc) {
			t.Errorf("%q: got %v, %v", phc, ok, err)
		}
	}
	if n := w.hashes.Load(); n != 0 {
		t.Errorf("%d hashes for what is not one", n)
	}
}

// I02, I05: strangers who sign in from everywhere keep nobody from the queue who has proved
// who they are, and those of one network keep nobody from it who comes from another.
func TestStrangersKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDirectory(t)
		alice, err := d.Add(t.Context(), "alice", nil, password)
		if err != nil {
			t.Fatal(err)
		}
		h, turns := d.hasher, make(chan struct{})
		derive := h.derive
		h.derive = func(password, salt []byte, passes, memory uint32, threads uint8, size uint32) []byte {
			<-turns
			return derive(password, salt, passes, memory, threads, size)
		}
		ended := make(chan error, 1000)
		attempt := func(network string) {
			go func() {
				_, err := d.Authenticate(t.Context(), network, "alice", password)
				ended <- err
			}()
			synctest.Wait()
		}
		busy := func() bool {
			select {
			case err := <-ended:
				return errors.Is(err, ErrBusy)
			default:
				return false
			}
		}
		for range cap(h.turn) + waiting {
			attempt("192.0.2.0/24")
		}
		if busy() {
			t.Error("a network's share is refused")
		}
		if attempt("192.0.2.0/24"); !busy() {
			t.Error("one network has more than its share of the queue")
		}
		if attempt("198.51.100.0/24"); busy() {
			t.Error("I02: another network is kept out")
		}
		for n := range 10_000 {
			if attempt(fmt.Sprint(n)); busy() && n > 500 {
				break
			}
		}
		changed := make(chan error, 1)
		go func() {
			_, err := d.ChangePassword(t.Context(), alice, password, password+"!")
			changed <- err
		}()
		synctest.Wait()
		close(turns)
		if err := <-changed; err != nil {
			t.Errorf("I05: a user with a session, while strangers sign in: %v", err)
		}
	})
}

// No more hashes at once than cores, no more in wait than are allowed, and who
// gives up leaves the queue.
func TestHasherIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHasher()
		var busy, most atomic.Int64
		h.derive = func([]byte, []byte, uint32, uint32, uint8, uint32) []byte {
			if n := busy.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			busy.Add(-1)
			return make([]byte, keySize)
		}
		all := cap(h.proven)
		ctx, giveUp := context.WithCancel(t.Context())
		errs := make(chan error, all)
		for range all {
			go func() {
				_, err := h.Hash(ctx, password)
				errs <- err
			}()
		}
		synctest.Wait()
		if _, err := h.Hash(t.Context(), password); !errors.Is(err, ErrBusy) {
			t.Errorf("one too many: got %v, want ErrBusy", err)
		}
		giveUp()
		var done, gone int
		for range all {
			switch err := <-errs; {
			case err == nil:
				done++
			case errors.Is(err, context.Canceled):
				gone++
			default:
				t.Error(err)
			}
		}
		if done != cap(h.turn) || gone != waiting || int(most.Load()) != cap(h.turn) {
			t.Errorf("%d done, %d gave up, %d at once; want %d, %d, %d", done, gone, most.Load(), cap(h.turn), waiting, cap(h.turn))
		}
		if _, err := h.Hash(t.Context(), password); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	h := NewHasher()
	for b.Loop() {
		if _, err := h.Hash(b.Context(), password); err != nil {
			b.Fatal(err)
		}
	}
}
