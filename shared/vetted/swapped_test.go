package vetted_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// volume is a folder of files that are swapped together, as Kubernetes mounts a secret:
// each is a link through ..data, which is a link to a folder that is never changed.
type volume struct {
	*testing.T
	path  string
	swaps int
}

func newVolume(t *testing.T, text string, names ...string) *volume {
	t.Helper()
	v := &volume{T: t, path: t.TempDir()}
	v.swap(text, names...)
	for _, name := range names {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.path, name)); err != nil {
			t.Skip(err) // a system on which not everybody makes links
		}
	}
	return v
}

// swap puts other files in place of all, at once.
func (v *volume) swap(text string, names ...string) {
	v.Helper()
	v.swaps++
	fresh := fmt.Sprintf("..%d", v.swaps)
	err := os.Mkdir(filepath.Join(v.path, fresh), 0o700)
	for _, name := range names {
		err = errors.Join(err, os.WriteFile(filepath.Join(v.path, fresh, name), []byte(text), 0o600))
	}
	next, data := filepath.Join(v.path, "..next"), filepath.Join(v.path, "..data")
	if err := errors.Join(err, os.Symlink(fresh, next), os.Rename(next, data)); err != nil {
		v.Fatal(err)
	}
	if v.swaps > 1 {
		if err := os.RemoveAll(filepath.Join(v.path, fmt.Sprintf("..%d", v.swaps-1))); err != nil {
			v.Fatal(err)
		}
	}
}

// Files that are swapped together come into force together, also when they are read while
// they are swapped, and when what they were is gone.
func TestFollowSwapped(t *testing.T) {
	v := newVolume(t, "0", "tls.crt", "tls.key")
	one := func(texts [][]byte) (string, error) {
		if string(texts[0]) != string(texts[1]) { // as a certificate and another one's key
			return "", errors.New("they do not belong together")
		}
		return string(texts[0]), nil
	}
	f, err := vetted.Follow(one, nil, vetted.File{Path: filepath.Join(v.path, "tls.crt"), Max: 9},
		vetted.File{Path: filepath.Join(v.path, "tls.key"), Max: 9, Secret: true})
	if err != nil {
		t.Fatal(err)
	}
	v.swap("1", "tls.crt", "tls.key")
	if f.Look(); f.Get() != "1" {
		t.Errorf("after the first swap: %s", f.Get())
	}
	stop := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				f.Look()
			}
		}
	})
	for i := range 100 {
		v.swap(fmt.Sprint(i+2), "tls.crt", "tls.key")
	}
	close(stop)
	reading.Wait()
	if f.Look(); f.Get() != "101" {
		t.Errorf("after 101 swaps: %s", f.Get())
	}
	// What was swapped in and does not belong together replaces nothing.
	v.swap("102", "tls.crt")
	if f.Look(); f.Get() != "101" {
		t.Errorf("after half a swap: %s", f.Get())
	}
}
