package replay_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
)

// I07: of a journal that was closed, nothing can be missing unnoticed: what was
// redeemed is refused, and the store is told to have started over.
func TestI07WhatIsMissingIsKnown(t *testing.T) {
	cut := func(file, bytes int) func(*journal, []string) {
		return func(j *journal, all []string) {
			j.change(all[len(all)-1-file], func(b []byte) []byte { return b[:max(0, len(b)-bytes)] })
		}
	}
	remove := func(files ...int) func(*journal, []string) {
		return func(j *journal, all []string) {
			for _, i := range files {
				if err := os.Remove(all[len(all)-1-i]); err != nil {
					j.Fatal(err)
				}
			}
		}
	}
	// The newest file, 0, says that the journal was closed; the marks are in 1.
	for name, damage := range map[string]func(*journal, []string){
		"a byte of the last file": cut(0, 1), "half of it": cut(0, 60), "all of it": cut(0, 1000),
		"the last file": remove(0),
		"a byte":        cut(1, 1), "23 bytes": cut(1, 23), "the seal": cut(1, 24), "a byte more": cut(1, 25),
		"a record": cut(1, 48), "ten records": cut(1, 24*11), "everything": cut(1, 10000),
		"the file with the marks": remove(1), "both": remove(0, 1), "one before them": remove(2),
		"a record more": func(j *journal, all []string) {
			j.change(all[len(all)-2], func(b []byte) []byte { return append(b, b[len(b)-24:]...) })
		},
		"a record behind the end": func(j *journal, all []string) {
			j.change(all[len(all)-1], func(b []byte) []byte { return append(b, make([]byte, 24)...) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			j := newJournal(t, c)
			s := j.open()
			early := c.token()
			redeem(t, s, early, nil)
			s = j.reopen(s, replay.Restored)
			before := []handoff.Redemption{early}
			for range 10 {
				before = append(before, c.token())
				redeem(t, s, before[len(before)-1], nil)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			damage(j, j.segments())
			s = j.open()
			j.last(replay.StartedOver)
			for _, r := range before {
				redeem(t, s, r, handoff.ErrIssuedBeforeStart)
			}
			s = j.reopen(s, replay.Restored)
			c.Add(s.Ready().Sub(c.Now()))
			fresh := c.token()
			redeem(t, s, fresh, nil)
			redeem(t, j.reopen(s, replay.Restored), fresh, handoff.ErrReplayed)
		})
	}
}

// I07: a copy is a memory that has forgotten, however it comes back.
func TestI07ACopyPutBack(t *testing.T) {
	run := func(t *testing.T, words ...string) {
		t.Helper()
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", words, err, out)
		}
	}
	for name, restore := range map[string]func(t *testing.T, path, copy string){
		"moved into its place":  func(t *testing.T, path, copy string) { run(t, "rm", "-r", path); run(t, "mv", copy, path) },
		"copied into its place": func(t *testing.T, path, copy string) { run(t, "rm", "-r", path); run(t, "cp", "-a", copy, path) },
		"its files copied back": func(t *testing.T, path, copy string) {
			run(t, "sh", "-c", `rm "$1"/* && cp -a "$2"/* "$1"`, "", path, copy)
		},
		"its files moved back": func(t *testing.T, path, copy string) {
			run(t, "sh", "-c", `rm "$1"/* && mv "$2"/* "$1"`, "", path, copy)
		},
		"written over its files": func(t *testing.T, path, copy string) { run(t, "sh", "-c", `cp -a "$2"/* "$1"`, "", path, copy) },
		"by an archive": func(t *testing.T, path, copy string) {
			run(t, "sh", "-c", `cd "$2" && tar cf ../a.tar . && rm -r "$1" && mkdir -m 700 "$1" && tar xpf ../a.tar -C "$1"`, "", path, copy)
		},
		"opened where it is": func(t *testing.T, path, copy string) {
			run(t, "sh", "-c", `mv "$1" "$1.away" && cp -a "$2" "$1"`, "", path, copy)
		},
		"a link leads to it": func(t *testing.T, path, copy string) {
			run(t, "sh", "-c", `mv "$1" "$1.away" && ln -s "$2" "$1"`, "", path, copy)
		},
		"linked, not copied, once": func(t *testing.T, path, copy string) {
			run(t, "sh", "-c", `rm -r "$1" && mkdir -m 700 "$1" && ln "$2"/* "$1"`, "", path, copy)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			j := newJournal(t, c)
			s := j.open()
			first := c.token()
			redeem(t, s, first, nil)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(t.TempDir(), "copy")
			run(t, "cp", "-a", j.path, copied)
			s = j.open()
			j.last(replay.Restored)
			later := c.token()
			redeem(t, s, later, nil)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			restore(t, j.path, copied)
			s = j.open()
			if name == "written over its files" { // those that were made since are still there
				redeem(t, s, first, handoff.ErrReplayed)
				redeem(t, s, later, handoff.ErrReplayed)
				return
			}
			j.last(replay.StartedOver)
			for _, r := range []handoff.Redemption{first, later, c.token()} {
				redeem(t, s, r, handoff.ErrIssuedBeforeStart)
			}
		})
	}
}

// I07: a journal whose folder was moved away stops, as another process cannot see
// its lock; and what that process opens at the path knows that it is a copy.
func TestI07TheFolderIsMovedAway(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	s := j.open()
	spent := c.token()
	redeem(t, s, spent, nil)
	away := j.path + ".away"
	for _, words := range [][]string{{"mv", j.path, away}, {"cp", "-a", away, j.path}} {
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	second := j.open()
	j.last(replay.StartedOver)
	unclear(t, s, c.token())
	if err := s.Healthy(); err == nil || !strings.Contains(err.Error(), "no longer at its path") {
		t.Errorf("the one whose folder was moved says %v", err)
	}
	redeem(t, second, spent, handoff.ErrIssuedBeforeStart)
	c.Add(second.Ready().Sub(c.Now()))
	fresh := c.token()
	unclear(t, s, fresh)
	redeem(t, second, fresh, nil)
	unclear(t, s, fresh)
}

// I07: an idle journal notices too, before anybody is served by it; and it goes on
// when its folder is back.
func TestI07TheFolderIsMovedAwayAndBack(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	s := j.open()
	spent := c.token()
	redeem(t, s, spent, nil)
	if err := os.Rename(j.path, j.path+".away"); err != nil {
		t.Fatal(err)
	}
	soon(t, "it is found moved", func() bool { return s.Healthy() != nil })
	if err := os.Rename(j.path+".away", j.path); err != nil {
		t.Fatal(err)
	}
	soon(t, "it goes on", func() bool { return s.Healthy() == nil })
	redeem(t, s, spent, handoff.ErrReplayed)
	redeem(t, s, c.token(), nil)
	redeem(t, j.reopen(s, replay.Restored), spent, handoff.ErrReplayed)
}

func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// I07: what others can write, or what is theirs, is not opened: they could have
// redemptions forgotten.
func TestI07OthersCanWrite(t *testing.T) {
	for name, harm := range map[string]struct {
		mode  fs.FileMode
		file  bool
		owner int
		names string
	}{
		"the folder, everybody":   {mode: 0o777, names: "0777"},
		"the folder, a group":     {mode: 0o770, names: "0770"},
		"the folder, sticky":      {mode: 0o777 | fs.ModeSticky, names: "0777"},
		"a file, everybody":       {mode: 0o606, file: true, names: "0606"},
		"a file, a group":         {mode: 0o660, file: true, names: "0660"},
		"the folder is another's": {mode: 0o700, owner: 65534, names: "another user"},
		"a file is another's":     {mode: 0o600, file: true, owner: 65534, names: "another user"},
		"others may read":         {mode: 0o755},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			j := newJournal(t, c)
			s := j.open()
			redeem(t, s, c.token(), nil)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := j.path
			if harm.file {
				path = j.segments()[0]
			}
			if err := os.Chmod(path, harm.mode); err != nil {
				t.Fatal(err)
			}
			if harm.owner != 0 {
				if err := os.Chown(path, harm.owner, -1); err != nil {
					t.Skip("only root can give a file away:", err)
				}
			}
			s, err := replay.Open(j.path, j.config)
			if err == nil {
				s.Close()
			}
			if harm.names == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), harm.names) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want a refusal that names %s and the file", err, harm.names)
			}
		})
	}
}

// What is in the folder and no file is not waited for.
func TestJournalWithAPipe(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	all := j.segments()
	if err := errors.Join(os.Remove(all[0]), exec.Command("mkfifo", "-m", "600", all[0]).Run()); err != nil {
		t.Skip(err)
	}
	for _, path := range []string{j.path, all[0]} { // one of its files, or in the place of the folder
		if s, err := replay.Open(path, j.config); err == nil {
			s.Close()
			t.Errorf("%s: opened", path)
		}
	}
}
