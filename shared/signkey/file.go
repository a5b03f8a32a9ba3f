package signkey

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// maxSize is the longest key file that is read, in bytes: an RSA key of 4096
// bits takes 4 KiB.
const maxSize = 64 << 10

// Save writes the key to a new file that only its owner can read (mode 0600). It
// refuses a path that exists. The file appears whole or not at all, and has
// reached the disk when Save returns nil. A key whose crypto.Signer is not a
// private key of the standard library cannot be saved.
func (k *Key) Save(path string) error { return k.save(path, vetted.WriteNew) }

func (k *Key) save(path string, write writer) error {
	text, err := json.Marshal(jose.JSONWebKey{
		Key: k.secret.signer, KeyID: k.public.ID(), Algorithm: string(k.public.Algorithm()), Use: "sig",
	})
	if err != nil {
		return errors.New("this key cannot leave its signer")
	}
	return writeNew(path, append(text, '\n'), write)
}

// writer is vetted.WriteNew, or WriteOwned in a folder of keys.
type writer func(path string, text []byte, mode fs.FileMode) error

// writeNew writes a file under another name and then links it to its own, which
// fails if that exists.
func writeNew(path string, text []byte, write writer) error {
	if path == "" {
		return errors.New("no file is named")
	}
	folder := filepath.Dir(path)
	temporary := filepath.Join(folder, ".signkey-"+rand.Text()+".tmp")
	err := write(temporary, text, 0o600)
	if failed, ok := errors.AsType[*fs.PathError](err); ok && failed.Op == "open" {
		// Nobody knows the name that was made up.
		return &fs.PathError{Op: "create a file in", Path: folder, Err: failed.Err}
	} else if err != nil {
		return err
	}
	err = os.Link(temporary, path)
	if errors.Is(err, fs.ErrExist) {
		err = &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	if err := errors.Join(err, os.Remove(temporary)); err != nil {
		return err
	}
	return vetted.SyncFolder(folder)
}

// Load reads a key that Save wrote. It refuses a file that is not regular or that
// others can use, as package vetted has it, through any links; a
// document that is not a private JWK in the form that the package comment says;
// and every key that New refuses. The error names the path.
func Load(path string) (*Key, error) {
	text, err := vetted.File{Path: path, Secret: true, Max: maxSize}.Read()
	if err != nil {
		return nil, err
	}
	k, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}
