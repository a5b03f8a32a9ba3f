package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/handoff-auth/handoff/shared/strictjson"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// Floor keeps the number of the newest list that a follower had in force, so that
// no older one is believed after a restart. It is safe for concurrent use.
type Floor interface {
	// Floor returns the number, or zero where none has been kept for the issuer.
	Floor(ctx context.Context, issuer string) (seq int64, err error)
	// Raise keeps seq, unless a greater number is kept, and returns when that
	// survives the process.
	Raise(ctx context.Context, issuer string, seq int64) error
}

// FileFloor keeps the number in a file, for one follower of one process.
type FileFloor struct {
	path string
	mu   sync.Mutex
}

// NewFileFloor returns a floor in the file, which need not exist yet; its folder
// must. It refuses a file or a folder that others can write, or own: they could have
// a former list believed.
func NewFileFloor(path string) (*FileFloor, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{filepath.Dir(path), path} {
		info, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name == path:
			continue
		case err != nil:
			return nil, err
		case name == path && !info.Mode().IsRegular():
			return nil, fmt.Errorf("%s: not a regular file", name)
		}
		if err := vetted.Kept(info, "have a former trust list believed"); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	f := &FileFloor{path: path}
	if _, _, err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// Floor implements Floor.
func (f *FileFloor) Floor(_ context.Context, issuer string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	of, seq, err := f.read()
	if err == nil && of != "" && of != issuer {
		err = fmt.Errorf("%s: it is of another issuer, %s", f.path, of)
	}
	return seq, err
}

// Raise implements Floor.
func (f *FileFloor) Raise(_ context.Context, issuer string, seq int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	of, kept, err := f.read()
	switch {
	case err != nil:
		return err
	case of != "" && of != issuer:
		return fmt.Errorf("%s: it is of another issuer, %s", f.path, of)
	case seq <= kept:
		return nil
	}
	text, err := json.Marshal(struct {
		Issuer string `json:"iss"`
		Seq    int64  `json:"seq"`
	}{issuer, seq})
	if err != nil {
		return err
	}
	return replaceFile(f.path, string(text)+"\n", 0o600)
}

// read returns nothing where there is no file.
func (f *FileFloor) read() (issuer string, seq int64, err error) {
	text, err := vetted.File{Path: f.path, Max: 4096}.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", 0, nil
	case err != nil:
		return "", 0, err
	}
	err = strictjson.Read(string(text), func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "iss":
				issuer, err = r.String()
			case "seq":
				seq, err = r.Integer()
			default:
				err = errMember
			}
			return err
		})
	})
	if err != nil || issuer == "" || seq == 0 {
		return "", 0, fmt.Errorf("%s: not the number of a trust list: remove it if you know that no former list is served", f.path)
	}
	return issuer, seq, nil
}
