//go:build unix

package server1

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// give has a folder and all that is in it belong to a user.
func (s *site) give(t testing.TB, folder string, user int) (files []os.DirEntry) {
	t.Helper()
	files, err := os.ReadDir(s.path(folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chown(s.path(folder+"/"+f.Name()), user, user); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(s.path(folder), user, user); err != nil {
		t.Fatal(err)
	}
	return files
}

// Operators act as root, and the server need not: what root prepares is the server's, and
// a private half that is there is not said to be lost.
func TestI12RootPreparesForAnother(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of others")
	}
	const user, other = 10001, 10002
	s := newQuickSite(t)
	s.addUser(t, "alice", "payer")
	t.Run("running", func(t *testing.T) { s.start(t, s.quick()) })
	first := s.give(t, "keys", user)[0].Name()
	s.command(t, "keys", "prepare", "--key-dir", s.path("keys"))
	files, err := os.ReadDir(s.path("keys"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if of := info.Sys().(*syscall.Stat_t); of.Uid != user || info.Mode() != 0o600 {
			t.Errorf("%s: of user %d, %v", f.Name(), of.Uid, info.Mode())
		}
	}
	if err := os.Chown(s.path("keys/"+first), other, other); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := s.try("keys", "prepare", "--key-dir", s.path("keys"))
	if status != 2 || !strings.Contains(stderr, "it belongs to another user") || strings.Contains(stderr, "--lost") || strings.Contains(stderr, "not there") {
		t.Errorf("exit status %d, %q", status, stderr)
	}
	settings := s.settings()
	for flag, value := range s.quick() {
		if settings[flag] = value; value == "" {
			delete(settings, flag)
		}
	}
	refused(t, arguments("serve", settings), nil, "a secret must belong to root or to the user of this process: it is the key that signs\n")
}
