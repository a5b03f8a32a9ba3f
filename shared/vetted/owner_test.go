//go:build unix

package vetted_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// asAnother has a child of the test read the files.
const asAnother = "HANDOFF_TEST_READS"

func TestMain(m *testing.M) {
	if folder := os.Getenv(asAnother); folder != "" {
		files, err := filepath.Glob(filepath.Join(folder, "*"))
		for _, file := range files {
			if _, err := (vetted.File{Path: file, Secret: true, Max: 9}).Read(); err == nil {
				fmt.Println(filepath.Base(file))
			}
		}
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// I07: what another user owns is not fit to keep anything in, with any mode;
// what root owns is.
func TestI07KeptByAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of others")
	}
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "", 0o600)
	for owner, fits := range map[int]bool{0: true, 10002: false} {
		if err := os.Chown(path, owner, -1); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := vetted.Kept(info, "sing"); (err == nil) != fits {
			t.Errorf("of user %d: %v", owner, err)
		}
	}
}

// I12: root, who acts for a server of another user, can use what is that user's in that
// user's folder, and nobody else's. What root writes there for the server is the user's.
func TestI12RootForAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of others")
	}
	const user, other = 10001, 10002
	for _, c := range []struct {
		folder, file int
		mode         os.FileMode
		isAccepted   bool
	}{
		{user, user, 0o600, true},
		{user, user, 0o640, false},
		{user, 0, 0o600, true},
		{user, other, 0o600, false},
		{0, user, 0o600, false},
		{0, 0, 0o600, true},
	} {
		folder := t.TempDir()
		path := filepath.Join(folder, "secret")
		write(t, path, "text", c.mode)
		if err := errors.Join(os.Chown(path, c.file, -1), os.Chown(folder, c.folder, -1)); err != nil {
			t.Fatal(err)
		}
		if _, err := (vetted.File{Path: path, Secret: true, Max: 9}).Read(); (err == nil) != c.isAccepted {
			t.Errorf("of user %d in a folder of user %d, mode %04o: %v", c.file, c.folder, c.mode, err)
		}
		owned, own := filepath.Join(folder, "owned"), filepath.Join(folder, "own")
		if err := errors.Join(vetted.WriteOwned(owned, nil, 0o600), vetted.WriteNew(own, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{owned: c.folder, own: 0} {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Sys().(*syscall.Stat_t).Uid; int(got) != want {
				t.Errorf("%s in a folder of user %d belongs to user %d", filepath.Base(path), c.folder, got)
			}
		}
	}
}

// I12: a secret of root's with mode 0440 and a group of ours is one, as Kubernetes
// and systemd hand it out; PostgreSQL accepts the same.
func TestI12SecretOfRoots(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of others")
	}
	const user, group = 10001, 2000
	folder := t.TempDir()
	var want []string
	for _, c := range []struct {
		name       string
		uid, gid   int
		mode       os.FileMode
		isAccepted bool
	}{
		{"roots 0440", 0, group, 0o440, true},
		{"roots 0640", 0, group, 0o640, true},
		{"roots 0444", 0, group, 0o444, false},
		{"roots 0644", 0, group, 0o644, false},
		{"roots 0660", 0, group, 0o660, false},
		{"roots 0450", 0, group, 0o450, false},
		{"roots 0440 of another group", 0, 2001, 0o440, false},
		{"ours 0400", user, user, 0o400, true},
		{"ours 0600", user, user, 0o600, true},
		{"ours 0440", user, group, 0o440, false},
		{"ours 0640", user, group, 0o640, false},
		{"another's 0440", 10002, group, 0o440, false},
		{"another's 0640", 10002, user, 0o640, false},
	} {
		path := filepath.Join(folder, c.name)
		write(t, path, "text", c.mode)
		if err := errors.Join(os.Chown(path, c.uid, c.gid), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		if c.isAccepted {
			want = append(want, c.name)
		}
	}
	for _, folder := range []string{folder, filepath.Dir(folder)} {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	child := exec.Command("/proc/self/exe")
	child.Dir, child.Env = "/", []string{asAnother + "=" + folder}
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user, Groups: []uint32{group}}}
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range want {
		if !strings.Contains("\n"+string(out), "\n"+name+"\n") {
			t.Errorf("%s is refused", name)
		}
		out = []byte(strings.Replace("\n"+string(out), "\n"+name+"\n", "\n", 1))
	}
	if rest := strings.TrimSpace(string(out)); rest != "" {
		t.Errorf("accepted as well: %s", rest)
	}
}
