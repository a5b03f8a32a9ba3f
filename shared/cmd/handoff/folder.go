package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

// keyFolder is a folder with the signing keys of one issuer:
//
//	ring.json    which key is in which state, as rotation.Parse reads it
//	terms.json   the times by which steps are taken
//	KID.key      the private half of a key that signs or soon will, as signkey.Load reads it
//
// It belongs to its owner alone. An issuer's process reads it whenever it likes:
// each file is replaced whole, and a private key is there before the ring names
// it.
type keyFolder string

const (
	ringFile  = "ring.json"
	termsFile = "terms.json"
	mostKeys  = 64 // of a trust list (package trust, SPEC.md)
)

// keyState is what the folder records.
type keyState struct {
	ring  rotation.Ring
	terms trust.Terms
}

func (f keyFolder) file(name string) string   { return filepath.Join(string(f), name) }
func (f keyFolder) private(kid string) string { return f.file(kid + ".key") }

// check refuses what is not a folder of the owner's alone.
func (f keyFolder) check() error {
	info, err := os.Stat(string(f))
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", f)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s has mode %04o: others can put keys there (chmod 700)", f, info.Mode().Perm())
	}
	return nil
}

// read returns what is recorded: nothing, if no step was ever taken.
func (f keyFolder) read() (s keyState, err error) {
	if err := f.check(); err != nil {
		return s, err
	}
	ring, ringErr := os.ReadFile(f.file(ringFile))
	terms, termsErr := os.ReadFile(f.file(termsFile))
	if errors.Is(ringErr, fs.ErrNotExist) && errors.Is(termsErr, fs.ErrNotExist) {
		return s, nil
	}
	if ringErr == nil {
		s.ring, ringErr = rotation.Parse(ring)
	} else if errors.Is(ringErr, fs.ErrNotExist) { // the first step was cut short
		ringErr = nil
	}
	if termsErr == nil {
		s.terms, termsErr = parseTerms(terms)
	}
	return s, errors.Join(named(f.file(ringFile), ringErr), named(f.file(termsFile), termsErr))
}

// open is read, before a step: where nothing is recorded it refuses private keys, as
// somebody else looks after them: SERVER1, whose ring is in its database.
func (f keyFolder) open() (keyState, error) {
	s, err := f.read()
	if err != nil || s.terms != (trust.Terms{}) {
		return s, err
	}
	files, err := os.ReadDir(string(f))
	if err != nil {
		return s, err
	}
	for _, file := range files {
		if filepath.Ext(file.Name()) == ".key" {
			return s, fmt.Errorf("%s has private keys and no %s: where they are SERVER1's, \"handoff-server1 keys\" changes them; "+
				"only where a first \"handoff keys prepare\" was cut short here can they be deleted", f, ringFile)
		}
	}
	return s, nil
}

func named(path string, err error) error {
	if err == nil || errors.As(err, new(*fs.PathError)) {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// take has do change what is recorded, one process at a time, and returns what is
// on disk then. The clock is read when nobody else can take a step. Its step is
// settled, as is one that was cut short before that.
func (f keyFolder) take(clock func() time.Time, do func(s keyState, now time.Time) (keyState, error)) (keyState, error) {
	dir, err := os.Open(string(f))
	if err != nil {
		return keyState{}, err
	}
	defer dir.Close()
	if err := lock(dir); err != nil {
		return keyState{}, fmt.Errorf("locking %s: %w", f, err)
	}
	former, err := f.open()
	if err != nil {
		return former, err
	}
	if former, err = f.settle(dir, former, clock); err != nil {
		return former, err
	}
	now := clock()
	s, err := do(former, now)
	if err != nil {
		return former, err
	}
	s.ring = s.ring.Prune(now)
	if s.terms != former.terms {
		if err := f.replace(dir, termsFile, formatTerms(s.terms)); err != nil {
			return former, err
		}
	}
	if err := f.replaceRing(dir, s.ring); err != nil {
		return former, err
	}
	s, err = f.settle(dir, s, clock)
	return s, errors.Join(err, f.sweep(dir, former.ring, s.ring))
}

// settle settles the ring that is on disk.
func (f keyFolder) settle(dir *os.File, s keyState, clock func() time.Time) (keyState, error) {
	if s.ring.Settled() {
		return s, nil
	}
	s.ring = s.ring.Settle(clock(), s.terms)
	return s, f.replaceRing(dir, s.ring)
}

func (f keyFolder) replaceRing(dir *os.File, ring rotation.Ring) error {
	text, err := json.Marshal(ring)
	if err != nil {
		return err
	}
	return f.replace(dir, ringFile, append(text, '\n'))
}

// replace puts a file in the place of another, so that a reader sees the former
// or the new, whole, and a crash leaves one of them. The folder is locked.
func (f keyFolder) replace(dir *os.File, name string, text []byte) error {
	next := f.file("." + name + ".next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(next, text, 0o644); err != nil {
		return err
	}
	if err := os.Rename(next, f.file(name)); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return dir.Sync()
}

// sweep removes the private halves of keys that will not sign again, also of
// those whose step was cut short before it could.
func (f keyFolder) sweep(dir *os.File, rings ...rotation.Ring) error {
	now := rings[len(rings)-1]
	for _, ring := range rings {
		for _, k := range ring.Records() {
			if signs(now, k.Key.ID()) {
				continue
			}
			if err := os.Remove(f.private(k.Key.ID())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("the step is taken, but a private key is still there: %w", err)
			}
		}
	}
	return dir.Sync()
}

// signs reports whether a key of the ring signs, or may do so later.
func signs(ring rotation.Ring, kid string) bool {
	for _, k := range ring.Records() {
		if k.Key.ID() == kid {
			return k.State == rotation.Next || k.State == rotation.Active
		}
	}
	return false
}

// prepare makes a key and adds it to the ring. Its private half is on disk before
// the ring names it; where the ring does not come to, it is removed.
func (f keyFolder) prepare(clock func() time.Time, algorithm handoff.Algorithm, terms termFlags) (keyState, *signkey.Key, error) {
	key, err := signkey.Generate(algorithm)
	if err != nil {
		return keyState{}, nil, err
	}
	kid := key.Key().ID()
	saved := false
	s, err := f.take(clock, func(s keyState, now time.Time) (keyState, error) {
		var err1, err2 error
		s.terms, err1 = terms.over(s.terms)
		s.ring, err2 = s.ring.Prepare(key.Key())
		if err := errors.Join(err1, err2); err != nil {
			return s, err
		}
		if len(s.ring.Listed(now)) > mostKeys {
			return s, fmt.Errorf("a trust list names %d keys at most: retire or taint one", mostKeys)
		}
		err := key.Save(f.private(kid))
		saved = err == nil
		return s, err
	})
	if err != nil && saved {
		// An error does not always mean that nothing was recorded.
		if now, failed := f.read(); failed == nil && !signs(now.ring, kid) {
			err = errors.Join(err, os.Remove(f.private(kid)))
		}
	}
	return s, key, err
}

// load returns the private half of a key.
func (f keyFolder) load(kid string) (*signkey.Key, error) {
	key, err := signkey.Load(f.private(kid))
	if err == nil && key.Key().ID() != kid {
		err = fmt.Errorf("%s has another key than its name says", f.private(kid))
	}
	return key, err
}
