package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// keyFolder is a folder with the signing keys of one issuer:
//
//	ring.json    which key is in which state, as rotation.Parse reads it
//	terms.json   the times by which steps are taken
//	KID.key      the private half of a key that signs or soon will, as signkey.Load reads it
//
// Only its owner can use it, and what root writes there is that owner's. An issuer's
// process can read it at any time: each file is replaced whole, and a private key is
// there before the ring names it.
type keyFolder string

const (
	ringFile  = "ring.json"
	termsFile = "terms.json"
	maxRecord = 1 << 20 // bytes of what a folder records, which never has so many
)

// keyState is what the folder records.
type keyState struct {
	ring  rotation.Ring
	terms trust.Terms
}

func (f keyFolder) file(name string) string { return filepath.Join(string(f), name) }

// keys is the folder with the private halves.
func (f keyFolder) keys() signkey.Folder { return signkey.Folder(f) }

// read returns what is recorded: nothing, if no step was ever taken.
func (f keyFolder) read() (s keyState, err error) {
	if err := f.keys().Check(); err != nil {
		return s, err
	}
	ring, ringErr := vetted.File{Path: f.file(ringFile), Max: maxRecord}.Read()
	terms, termsErr := vetted.File{Path: f.file(termsFile), Max: maxRecord}.Read()
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

// store is the folder as a rotation.Store, with the terms that the flags name.
type store struct {
	keyFolder
	terms termFlags
}

// Ring returns the ring that is recorded.
func (s store) Ring(context.Context) (rotation.Ring, error) {
	state, err := s.read()
	return state.ring, err
}

// ChangeRing has change make another ring, one process at a time. The terms are
// recorded with the ring, before it.
func (s store) ChangeRing(_ context.Context, clock func() time.Time, change rotation.Change) (rotation.Ring, error) {
	dir, err := os.Open(string(s.keyFolder))
	if err != nil {
		return rotation.Ring{}, err
	}
	defer dir.Close()
	if err := lock(dir); err != nil {
		return rotation.Ring{}, fmt.Errorf("locking %s: %w", s.keyFolder, err)
	}
	former, err := s.read()
	if err != nil {
		return former.ring, err
	}
	terms, err := s.terms.over(former.terms)
	if err != nil {
		return former.ring, err
	}
	ring, err := change(former.ring, terms, clock())
	if err != nil {
		return former.ring, err
	}
	if terms != former.terms {
		if err := s.replace(dir, termsFile, formatTerms(terms)); err != nil {
			return former.ring, err
		}
	}
	text, err := json.Marshal(ring)
	if err != nil {
		return former.ring, err
	}
	return ring, s.replace(dir, ringFile, append(text, '\n'))
}

// replace puts a file in the place of another, so that a reader sees the former
// or the new, whole, and a crash leaves one of them. The folder is locked.
func (f keyFolder) replace(dir *os.File, name string, text []byte) error {
	next := f.file("." + name + ".next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := vetted.WriteOwned(next, text, 0o644); err != nil {
		return err
	}
	if err := os.Rename(next, f.file(name)); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return dir.Sync()
}
