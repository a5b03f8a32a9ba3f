package serving

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A certificate is a certificate chain and its key in files, read again when
// they change. What does not load never replaces what did.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	stamp   [2]stamp  // of the files that were read last
	checked time.Time // when the files were last looked at
}

// maxPEM bounds what is read of a file, in bytes.
const maxPEM = 1 << 20

// recheck is how long the files are taken to be unchanged.
const recheck = time.Second

// stamp is what shows that a file has changed.
type stamp struct {
	modified time.Time
	size     int64
}

func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	current, err := c.load()
	if err != nil {
		return nil, err
	}
	if now := time.Now(); now.After(current.Leaf.NotAfter) {
		return nil, &SettingError{"tls-cert", fmt.Errorf("%s expired at %s", certFile, current.Leaf.NotAfter.Format(time.RFC3339))}
	}
	c.current, c.stamp, c.checked = current, c.look(), time.Now()
	return c, nil
}

// tlsConfig is for TLS 1.3 alone (RFC 9325 section 3.1.1 between services that
// are all new).
func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(time.Now()), nil },
	}
}

func (c *certificate) get(now time.Time) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.checked) < recheck {
		return c.current
	}
	c.checked = now
	found := c.look()
	if found == c.stamp {
		return c.current
	}
	c.stamp = found
	if next, err := c.load(); err != nil {
		c.log.Error("the changed certificate does not load: the last good one stays in use", "error", err.Error())
	} else {
		c.current = next
		c.log.Info("certificate loaded again", "expires", next.Leaf.NotAfter)
	}
	return c.current
}

func (c *certificate) look() (found [2]stamp) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			found[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return found
}

func (c *certificate) load() (*tls.Certificate, error) {
	chain, err := readFile(c.certFile, func(fs.FileInfo) error { return nil })
	if err != nil {
		return nil, &SettingError{"tls-cert", err}
	}
	key, err := readFile(c.keyFile, private)
	if err != nil {
		return nil, &SettingError{"tls-key", err}
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, &SettingError{"tls-cert", fmt.Errorf("with --tls-key: %w", err)}
	}
	return &pair, nil
}

// private refuses a key file that others than its owner can use.
func private(info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("others can read or change it (mode %04o): chmod 600", mode)
	}
	return nil
}

// readFile reads a regular file that vet accepts. It vets what it has opened.
func readFile(name string, vet func(fs.FileInfo) error) ([]byte, error) {
	if name == "" {
		return nil, errors.New("no file is given")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPEM {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", name, maxPEM)
	}
	if err := vet(info); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return io.ReadAll(io.LimitReader(f, maxPEM))
}
