// Package vetted reads the files that decide what a program signs with, whom it
// trusts and what it remembers, and follows them.
//
//	text, err := vetted.File{Path: "shop.key", Secret: true, Max: 64 << 10}.Read()
//
// # Who may touch such a file
//
// A file that others can write is refused with any content: they would decide. A
// secret is refused as PostgreSQL refuses its keys: it must belong to the user of
// the process, with mode 0600 at most, or to root, with mode 0640 at most. That is
// how Kubernetes (a Secret volume with fsGroup) and systemd (LoadCredential=) hand
// secrets out. Root, who acts for a server of another user, may also use what belongs to
// the owner of the folder that it is in, with mode 0600 at most: that user decides anyway
// what is there. What is judged is the file that was opened, through any links that led
// there. On systems without such modes nothing is secret, and a secret is refused.
//
// What a process keeps for itself, in a file or a folder, is judged by Kept: it must
// belong to its user, or to root, and nobody else may write it.
//
// # Following
//
// Follow reads files that belong together, such as a certificate and its key, and
// reads them again at most once a second, when somebody asks for what they say. It
// compares what they say and not their times, so that no change is missed: not one
// within a clock's tick, not a link that leads elsewhere, not a change of mode. What
// is worse than what was read last replaces nothing, and is read again each second
// until it is good. Nothing runs in the background.
package vetted

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// File is a regular file and what is demanded of it.
type File struct {
	Path   string
	Secret bool // nobody else may read it, either
	Max    int  // the longest content that is accepted, in bytes
}

// Read returns the file's content. The error names the path and nothing of the
// content. A path in which there is a pkcs11: URI is refused and not named.
func (f File) Read() ([]byte, error) {
	if f.Path == "" {
		return nil, errors.New("no file is named")
	}
	if err := NoURI(f.Path); err != nil {
		return nil, err
	}
	text, err := f.read()
	if err != nil && !errors.As(err, new(*os.PathError)) {
		err = fmt.Errorf("%s: %w", f.Path, err)
	}
	return text, err
}

// Roots returns the certificate authorities in the file, which is PEM.
func (f File) Roots() (*x509.CertPool, error) {
	text, err := f.Read()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", f.Path)
	}
	return roots, nil
}

// NoURI refuses a path in which there is the URI of a key in a PKCS#11 token, before an
// error names it: a PIN may be in it.
func NoURI(path string) error {
	if strings.Contains(strings.ToLower(path), "pkcs11:") {
		return errors.New("a path is needed, and not the URI of a key in a PKCS#11 token, which is not repeated here as a PIN may be in it")
	}
	return nil
}

func (f File) read() ([]byte, error) {
	if info, err := os.Stat(f.Path); err == nil && !info.Mode().IsRegular() { // before it is opened: a pipe would block
		return nil, errors.New("not a regular file")
	}
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if err := f.vet(info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, int64(f.Max)+1))
	if err == nil && len(text) > f.Max {
		err = fmt.Errorf("longer than %d bytes", f.Max)
	}
	if err != nil {
		return nil, err
	}
	return text, nil
}

// vet judges the opened file: what stands at its path can change.
func (f File) vet(info os.FileInfo) error {
	mode := info.Mode()
	switch {
	case !mode.IsRegular():
		return errors.New("not a regular file")
	case f.Secret:
		return f.secret(info)
	}
	return Closed(info, "decide what it says")
}

// Closed refuses a file or a folder that others can write. The error says so, with
// what they could do, and does not name the file.
func Closed(info os.FileInfo, harm string) error {
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		if !modesTell {
			return fmt.Errorf("file modes do not tell who can write it on %s, so it is taken for one that others can, and so %s", runtime.GOOS, harm)
		}
		return fmt.Errorf("others can write it (mode %04o), and so %s: chmod go-w it (umask 002 lets the group write what is made)", mode, harm)
	}
	return nil
}

// Kept refuses a file or a folder that is not fit to keep in it what the process
// must not forget: others can write it, or it belongs to another user than the
// process's or root. The error is like that of Closed.
func Kept(info os.FileInfo, harm string) error {
	if ownerOf(info) == others {
		return fmt.Errorf("it belongs to another user, who can %s", harm)
	}
	return Closed(info, harm)
}

// secret is the rule of PostgreSQL for private keys (be-secure-common.c,
// check_ssl_key_file_permissions).
func (f File) secret(info os.FileInfo) error {
	mode, owner := info.Mode().Perm(), ownerOf(info)
	if owner == others && ownedWithFolder(info, f.Path) {
		owner = ours
	}
	switch {
	case !modesTell:
		return fmt.Errorf("file modes do not tell who can read it on %s, so no secret is taken from a file", runtime.GOOS)
	case owner == ours && mode&0o077 != 0:
		return fmt.Errorf("others can use it (mode %04o), so take what is in it as known to them: a secret of this user's must have mode 0600 at most", mode)
	case owner == roots && mode&0o037 != 0:
		return fmt.Errorf("others can use it (mode %04o), so take what is in it as known to them: a secret of root's must have mode 0640 at most", mode)
	case owner == others:
		return errors.New("it belongs to another user: a secret must belong to root or to the user of this process")
	}
	return nil
}

// Replaceable refuses a path at which there is something else than a regular file: to
// put a file in its place by renaming would remove a device, a pipe or a link.
func Replaceable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return &os.PathError{Op: "replace", Path: path, Err: errors.New("not a regular file")}
	}
	return nil
}

// owner is whose a file is.
type owner int

const (
	ours owner = iota
	roots
	others
)
