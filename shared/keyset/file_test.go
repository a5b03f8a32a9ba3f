package keyset_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// follower is a loaded set and what its hook was told.
type follower struct {
	*keyset.Set
	t    *testing.T
	path string

	mu   sync.Mutex
	told []error
}

func follow(t *testing.T, text string) *follower {
	t.Helper()
	f := &follower{t: t, path: filepath.Join(t.TempDir(), "shop.jwks")}
	f.write(text)
	var err error
	if f.Set, err = keyset.Load(f.path); err != nil {
		t.Fatal(err)
	}
	f.Observe = func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.told = append(f.told, err)
	}
	return f
}

func (f *follower) write(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// replace writes as one should: beside the file, and renamed into place.
func (f *follower) replace(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path+".new", []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		f.t.Fatal(err)
	}
}

// expect checks which keys are listed, and what the hook was told since it was
// last asked.
func (f *follower) expect(step string, want object, told ...bool) {
	f.t.Helper()
	id := thumbprint(want)
	if _, err := f.Key(context.Background(), id); err != nil {
		f.t.Errorf("%s: the key is not listed", step)
	}
	if ks := f.Keys(); len(ks) != 1 || ks[0].ID() != id {
		f.t.Errorf("%s: other keys are listed", step)
	}
	if len(f.told) != len(told) {
		f.t.Fatalf("%s: told %v", step, f.told)
	}
	for i, fault := range told {
		if (f.told[i] != nil) != fault {
			f.t.Errorf("%s: told %v", step, f.told[i])
		}
	}
	f.told = nil
}

const fault, inForce = true, false

func TestFileIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := jwk(samples().ed25519), jwk(samples().p256)
		f := follow(t, set(first))
		next := func() { time.Sleep(time.Second) }

		f.replace(set(second))
		f.expect("within the second", first)
		next()
		f.expect("after it", second, inForce)
		next()
		f.expect("unchanged", second)
		f.write(set(first)) // in place
		next()
		f.expect("written in place", first, inForce)

		for name, bad := range map[string]string{
			"empty": "", "half a set": set(second)[:40], "private": set(second.with("d", "AAAA")), "no keys": set(),
		} {
			f.replace(bad)
			next()
			f.expect(name, first, fault)
			next()
			f.expect(name+", again", first)
			f.replace(bad)
			next()
			f.expect(name+", the same once more", first)
		}
		f.replace(set(second))
		next()
		f.expect("good again", second, inForce)

		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		next()
		f.expect("gone", second, fault)
		next()
		f.expect("still gone", second)
		f.write(set(second))
		next()
		f.expect("back", second, inForce)
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		next()
		f.expect("gone a second time", second, fault)
		if err := os.Mkdir(f.path, 0o700); err != nil {
			t.Fatal(err)
		}
		next()
		f.expect("a folder", second, fault)
	})
}

// A file that others can write is as good as gone: the last good set stays.
func TestFileThatOthersCanWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := jwk(samples().ed25519), jwk(samples().p256)
		f := follow(t, set(first))
		change := func(mode os.FileMode) {
			if err := os.Chmod(f.path, mode); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		change(0o644)
		f.expect("readable by all", first)
		change(0o664)
		f.expect("writable by the group", first, fault)
		f.write(set(second))
		change(0o646)
		f.expect("written by whomever", first, fault)
		change(0o646)
		f.expect("no change", first)
		change(0o644)
		f.expect("mended", second, inForce)
	})
}

// Two writes can bear the same time and size.
func TestFileChangesWithinOneTimestamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := jwk(samples().ed25519), jwk(samples().ed25519)
		b["x"] = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" // RFC 8037 appendix A.1
		f := follow(t, set(a))
		touch := func() {
			if err := os.Chtimes(f.path, time.Now(), time.Unix(2e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
		touch()
		time.Sleep(time.Second)
		f.expect("touched", a)
		f.write(set(b))
		touch()
		time.Sleep(time.Second)
		f.expect("same time and size", b, inForce)
	})
}

// A file that has not been touched for long is not read again.
func TestFileIsReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, set(jwk(samples().ed25519)))
		old := time.Now().Add(-time.Hour)
		for range 2 {
			if err := os.Chtimes(f.path, old, old); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			f.expect("old", jwk(samples().ed25519))
		}
		accessed := func() int64 {
			info, err := os.Stat(f.path)
			if err != nil {
				t.Fatal(err)
			}
			return info.Sys().(*syscall.Stat_t).Atim.Nano()
		}
		before := accessed()
		time.Sleep(time.Hour)
		f.expect("an hour later", jwk(samples().ed25519))
		if accessed() != before {
			t.Error("the file was read though nothing had changed")
		}
	})
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	paths := []string{"", dir, pipe, bad, filepath.Join(dir, "missing")}
	for name, mode := range map[string]os.FileMode{"by the group": 0o620, "by all": 0o602, "by all others": 0o666} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(set(jwk(samples().ed25519))), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		link := path + ", linked"
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path, link)
	}
	for _, path := range paths {
		s, err := keyset.Load(path)
		if err == nil || s != nil {
			t.Errorf("%q is accepted", path)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("the error does not name %q: %v", path, err)
		}
	}
	if _, err := keyset.Load(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// Whichever lookup finds a change, from the second after it no other misses it.
func TestConcurrentLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sets := []object{jwk(samples().ed25519), jwk(samples().p256)}
		f := follow(t, set(sets[0]))
		for i := range 6 {
			f.replace(set(sets[i%2]))
			time.Sleep(time.Second)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, err := f.Key(context.Background(), thumbprint(sets[i%2])); err != nil {
						t.Errorf("change %d is missed: %v", i, err)
					}
					if _, err := f.Key(context.Background(), thumbprint(sets[1-i%2])); !errors.Is(err, handoff.ErrKeyUnknown) {
						t.Errorf("change %d: the key before it is still listed", i)
					}
				})
			}
			wg.Wait()
		}
		f.expect("at the end", sets[1], inForce, inForce, inForce, inForce, inForce)
	})
}
