package keyset_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
		f.expect("written by anybody", first, fault)
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

// I12: any change is seen: one that keeps the file's time, size and inode, and a
// link that leads elsewhere, to a file of the same time and size.
func TestI12FileChangesUnseenByItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := jwk(samples().ed25519), jwk(samples().ed25519)
		b["x"] = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" // RFC 8037 appendix A.1
		f := follow(t, set(a))
		old := time.Unix(1e9, 0)
		write := func(path string, of object) {
			t.Helper()
			err := errors.Join(os.WriteFile(path, []byte(set(of)), 0o600), os.Chtimes(path, old, old))
			if err != nil {
				t.Fatal(err)
			}
		}
		write(f.path, a)
		time.Sleep(time.Hour)
		f.expect("old", a)
		write(f.path, b)
		time.Sleep(time.Second)
		f.expect("in place, its time restored", b, inForce)

		write(f.path+".a", a)
		write(f.path+".b", b)
		link := func(to string) {
			t.Helper()
			if err := errors.Join(os.Symlink(to, f.path+".link"), os.Rename(f.path+".link", f.path)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		link(f.path + ".b")
		f.expect("a link to the same", b)
		link(f.path + ".a")
		f.expect("a link that leads elsewhere", a, inForce)
	})
}

// A file is read at once when somebody says so.
func TestLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := jwk(samples().ed25519), jwk(samples().p256)
		f := follow(t, set(first))
		f.write(set(second))
		f.expect("within the second", first)
		f.Look()
		f.expect("looked at", second, inForce)
		f.Look()
		f.expect("looked at again", second)
	})
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	paths := []string{"", dir, bad, filepath.Join(dir, "missing")}
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
