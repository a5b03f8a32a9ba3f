//go:build unix

package sqlite

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// I12: an operator who is root gives the owner of a database its lock files, and no file of
// another's to which that owner has made a link in their place.
func TestI12RootGivesNothingElseAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const user = 10001
	for name, link := range map[string]func(old, new string) error{"a symbolic link": os.Symlink, "a hard link": os.Link, "nothing": nil} {
		folder := t.TempDir()
		path, victim := filepath.Join(folder, "db"), filepath.Join(folder, "victim")
		for _, file := range []string{path, victim} {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(path, user, user); err != nil {
			t.Fatal(err)
		}
		given := victim
		if link == nil {
			given = path + "-turn"
		} else if err := link(victim, path+"-turn"); err != nil {
			t.Fatal(err)
		}
		turn, err := openTurn(path)
		if (err == nil) != (link == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = turn.close()
		}
		info, err := os.Stat(given)
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; (owner == user) != (link == nil) {
			t.Errorf("%s: the file belongs to user %d", name, owner)
		}
	}
}
