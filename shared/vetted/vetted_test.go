package vetted_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/vetted"
)

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// H11: what others can write is refused, and of a secret what they can read.
func TestReadJudgesTheMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode           os.FileMode
		public, secret bool
	}{
		{0o600, true, true},
		{0o400, true, true},
		{0o440, true, false},
		{0o640, true, false},
		{0o644, true, false},
		{0o610, true, false},
		{0o601, true, false},
		{0o664, false, false},
		{0o620, false, false},
		{0o602, false, false},
		{0o777, false, false},
	} {
		write(t, path, "text", c.mode)
		for _, name := range []string{path, link} {
			for secret, want := range map[bool]bool{false: c.public, true: c.secret} {
				text, err := vetted.File{Path: name, Secret: secret, Max: 4}.Read()
				if got := err == nil; got != want || got != (string(text) == "text") {
					t.Errorf("mode %04o, secret %v: %q, %v", c.mode, secret, text, err)
				} else if err != nil && !strings.Contains(err.Error(), name) {
					t.Errorf("the error does not name the file: %v", err)
				}
			}
		}
	}
}

// What a process keeps is nobody else's to write. Who owns it is in owner_test.go.
func TestKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for mode, fits := range map[os.FileMode]bool{0o600: true, 0o755: true, 0o444: true, 0o620: false, 0o602: false, 0o777: false} {
		write(t, path, "", mode)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, judge := range []func(os.FileInfo, string) error{vetted.Closed, vetted.Kept} {
			err := judge(info, "sing")
			if (err == nil) != fits || err != nil && !strings.Contains(err.Error(), "so sing: chmod go-w") {
				t.Errorf("mode %04o: %v", mode, err)
			}
		}
	}
}

// What a server writes takes the place of a regular file or of nothing. In a folder of
// the test's own: as root it would remove a device.
func TestReplaceable(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	write(t, file, "", 0o644)
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for path, fits := range map[string]bool{file: true, filepath.Join(dir, "nothing"): true, link: false, dir: false, os.DevNull: false} {
		if err := vetted.Replaceable(path); (err == nil) != fits || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long")
	write(t, long, "12345", 0o600)
	for _, path := range []string{"", dir, long, filepath.Join(dir, "missing"), os.DevNull} {
		text, err := vetted.File{Path: path, Max: 4}.Read()
		if err == nil || text != nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %q, %v", path, text, err)
		}
	}
	if _, err := (vetted.File{Path: filepath.Join(dir, "missing"), Max: 4}).Read(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestRoots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	file := vetted.File{Path: path, Max: 1 << 20}
	authority := httptest.NewTLSServer(nil)
	defer authority.Close()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw})
	write(t, path, string(certificate), 0o644)
	roots, err := file.Roots()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authority.Certificate().Verify(x509.VerifyOptions{Roots: roots, DNSName: "example.com"}); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"empty":                 {"", 0o644},
		"no PEM":                {"text", 0o644},
		"cut":                   {string(certificate[:100]), 0o644},
		"a key":                 {"-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n", 0o644},
		"written by others too": {string(certificate), 0o666},
	} {
		write(t, path, c.text, c.mode)
		if roots, err := file.Roots(); roots != nil || err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", name, roots, err)
		}
	}
}

// I12: files that belong together are read together; what does not load, or is not
// good at this moment, replaces nothing, is told once, and is tried again.
func TestI12Follow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
		write(t, one, "1", 0o644)
		write(t, two, "1", 0o600)
		good := time.Time{} // from when on a "2" is
		read := func(texts [][]byte) (int, error) {
			n, err := strconv.Atoi(string(texts[0]))
			switch {
			case err != nil:
				return 0, err
			case string(texts[0]) != string(texts[1]):
				return 0, errors.New("not a pair")
			case n == 2 && time.Now().Before(good):
				return 0, errors.New("not yet")
			}
			return n, nil
		}
		var told []string
		observe := func(err error) {
			if err == nil {
				err = errors.New("good")
			}
			told = append(told, filepath.Base(err.Error()))
		}
		f, err := vetted.Follow(read, observe, vetted.File{Path: one, Max: 9}, vetted.File{Path: two, Secret: true, Max: 9})
		if err != nil {
			t.Fatal(err)
		}
		expect := func(step string, want int, news ...string) {
			t.Helper()
			for range 3 { // told once
				time.Sleep(time.Second)
				if got := f.Get(); got != want {
					t.Errorf("%s: %d, want %d", step, got, want)
				}
			}
			if strings.Join(told, ";") != strings.Join(news, ";") {
				t.Errorf("%s: told %q, want %q", step, told, news)
			}
			told = nil
		}
		expect("at first", 1)
		write(t, one, "2", 0o644)
		expect("half of a pair", 1, "not a pair")
		good = time.Now().Add(10 * time.Second)
		write(t, two, "2", 0o600)
		expect("not good yet", 1, "not yet")
		time.Sleep(10 * time.Second)
		expect("good by now", 2, "good")
		write(t, one, "3", 0o644)
		write(t, two, "3", 0o644)
		expect("a secret that others can read", 2, "two: others can use it (mode 0644), so take what is in it as known to them: a secret of this user's must have mode 0600 at most")
		if err := os.Chmod(two, 0o600); err != nil { // nothing else changes
			t.Fatal(err)
		}
		expect("mended by chmod", 3, "good")
		if err := os.Remove(one); err != nil {
			t.Fatal(err)
		}
		expect("gone", 3, "one: no such file or directory")
		write(t, one, "3", 0o644)
		expect("back as it was", 3, "good")
		write(t, one, "4", 0o644)
		write(t, two, "4", 0o600)
		f.Look()
		if got := f.Get(); got != 4 {
			t.Errorf("looked at: %d", got)
		}
	})
}

func TestFollowRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	read := func(texts [][]byte) (int, error) { return strconv.Atoi(string(texts[0])) }
	for name, spoil := range map[string]func(){
		"missing": func() {}, "bad": func() { write(t, path, "x", 0o600) }, "open to others": func() { write(t, path, "1", 0o666) },
	} {
		spoil()
		if f, err := vetted.Follow(read, nil, vetted.File{Path: path, Max: 9}); err == nil || f != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
