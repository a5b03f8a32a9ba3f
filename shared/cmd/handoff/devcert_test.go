package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDevcert(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	if status, _, errOut := invoke(t, "", "devcert", "--out", dir, "--host", "server2.test", "--host", "127.0.0.1", "--days", "2"); status != exitDone {
		t.Fatal(errOut)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, c := range []struct {
		name string
		at   time.Time
		ok   bool
	}{
		{"server2.test", now, true},
		{"127.0.0.1", now, true},
		{"server2.test", now.Add(47 * time.Hour), true},
		{"server2.test", now.Add(49 * time.Hour), false},
		{"server2.test", now.Add(-2 * time.Hour), false},
		{"server1.test", now, false},
		{"localhost", now, false},
	} {
		if err := handshake(t, server, roots, c.name, c.at); (err == nil) != c.ok {
			t.Errorf("%s at %s: %v", c.name, c.at, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ca.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the authority's key is kept: %v", err)
	}
	// The server's key signs only for the server.
	if leaf, err := x509.ParseCertificate(server.Certificate[0]); err != nil || leaf.IsCA {
		t.Errorf("the server is an authority: %v", err)
	}
}

// The names of a demo are one certificate's. What is made again is another
// certificate: Firefox refuses two with the same issuer and serial number.
func TestDevcertForBrowsers(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		dir := filepath.Join(t.TempDir(), "certs")
		if status, _, errOut := invoke(t, "", "devcert", "--out", dir, "--host", "shop.localhost", "--host", "billing.localhost"); status != exitDone {
			t.Fatal(errOut)
		}
		for _, name := range []string{"ca.pem", "server.pem"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(text)
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if serial := c.Issuer.String() + c.SerialNumber.String(); seen[serial] || c.SerialNumber.BitLen() < 64 {
				t.Errorf("%s has the serial number %s", name, c.SerialNumber)
			} else {
				seen[serial] = true
			}
			if c.IsCA {
				continue
			}
			for host, ok := range map[string]bool{"shop.localhost": true, "billing.localhost": true, "localhost": false, "evil.localhost": false, "a.shop.localhost": false} {
				if err := c.VerifyHostname(host); (err == nil) != ok {
					t.Errorf("%s: %v", host, err)
				}
			}
		}
	}
	if status, _, errOut := invoke(t, "", "devcert", "--out", t.TempDir(), "--host", "*.localhost"); status == exitDone || !strings.Contains(errOut, "--host") {
		t.Errorf("a wildcard, which browsers refuse: %d %s", status, errOut)
	}
}

// handshake has a TLS 1.3 client and server meet.
func handshake(t *testing.T, server tls.Certificate, roots *x509.CertPool, name string, at time.Time) error {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{server}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_ = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{
		RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS13, Time: func() time.Time { return at },
	})
	if err != nil {
		return err
	}
	return conn.Close()
}

func TestDevcertKeepsItsKeyWhenAsked(t *testing.T) {
	dir := t.TempDir()
	if status, _, errOut := invoke(t, "", "devcert", "--out", dir, "--keep-ca-key"); status != exitDone {
		t.Fatal(errOut)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")); err != nil {
		t.Error(err)
	}
	for name, mode := range map[string]fs.FileMode{"ca.key": 0o600, "server.key": 0o600, "ca.pem": 0o644, "server.pem": 0o644} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "server.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} { // without --host
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
}

// A file that exists is kept, and then none is written.
func TestDevcertLeavesNothingHalf(t *testing.T) {
	for _, taken := range []string{"ca.pem", "server.pem", "server.key"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, taken), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _, _ := invoke(t, "", "devcert", "--out", dir); status != exitUsage {
			t.Errorf("%s: status %d", taken, status)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("%s: %v %v", taken, entries, err)
		}
		if text, err := os.ReadFile(filepath.Join(dir, taken)); err != nil || string(text) != "mine" {
			t.Errorf("%s: %s %v", taken, text, err)
		}
	}
}
