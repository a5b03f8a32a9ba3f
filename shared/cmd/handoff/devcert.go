package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/handoff-auth/handoff/shared/vetted"
)

type devcertCommand struct {
	Out       string   `required:"" placeholder:"DIR" help:"Folder for the files, made if it does not exist. None of the files may exist."`
	Host      []string `placeholder:"NAME" sep:"none" help:"DNS name or IP address of the server. Repeat it for each. Default: localhost, 127.0.0.1 and ::1."`
	Days      int      `default:"30" placeholder:"N" help:"How long the certificates are valid, in days from 1 to 365. Default: 30."`
	KeepCAKey bool     `name:"keep-ca-key" help:"Write the authority's key as well, as ca.key. Anyone who has it can pose as any server to those who trust ca.pem. Default: it is forgotten."`
}

func (devcertCommand) Help() string {
	return "For development only: nobody guards this authority. Writes ca.pem, the authority that clients are to trust, and " +
		"server.pem and server.key (mode 0600), for a server that speaks TLS. Keys are ECDSA, P-256.\n\n" +
		"Example:\n\n    handoff devcert --out certs --host localhost --host 127.0.0.1 --host shop.localhost --host billing.localhost\n\n" +
		"A browser takes any name beneath localhost for this machine, but no certificate for *.localhost: name each. Each run's " +
		"certificates have serial numbers of their own, as a browser refuses two that share one."
}

func (c *devcertCommand) Run(p *program) error {
	if c.Days < 1 || c.Days > 365 {
		return errors.New("--days: not from 1 to 365")
	}
	if len(c.Host) == 0 {
		c.Host = []string{"localhost", "127.0.0.1", "::1"}
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "handoff development server"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range c.Host {
		if ip := net.ParseIP(host); ip != nil {
			server.IPAddresses = append(server.IPAddresses, ip)
		} else if dnsName.MatchString(host) {
			server.DNSNames = append(server.DNSNames, host)
		} else {
			return fmt.Errorf("--host: %q is neither a DNS name nor an IP address", host)
		}
	}
	ca := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "handoff development authority: do not trust it in production"},
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	// Valid from an hour ago: the clocks of machines in development differ.
	for _, certificate := range []*x509.Certificate{ca, server} {
		certificate.NotBefore = p.now().Add(-time.Hour)
		certificate.NotAfter = p.now().AddDate(0, 0, c.Days)
	}
	files, err := makeCertificates(ca, server)
	if err != nil {
		return err
	}
	if !c.KeepCAKey {
		delete(files, "ca.key")
	}
	if err := c.write(files); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	_, err = fmt.Fprintf(p.out, "for development only: %s and %s for the server, %s for its clients, until %s\n",
		filepath.Join(c.Out, "server.pem"), filepath.Join(c.Out, "server.key"), filepath.Join(c.Out, "ca.pem"),
		server.NotAfter.Format(time.DateOnly))
	return err
}

var dnsName = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// makeCertificates signs server with the key of a new ca. The result maps file
// names to PEM.
func makeCertificates(ca, server *x509.Certificate) (map[string][]byte, error) {
	caKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	serverKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(caDER) // with the key id that server's certificate names
	if err != nil {
		return nil, err
	}
	serverDER, err := x509.CreateCertificate(rand.Reader, server, issuer, serverKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	caKeyDER, err1 := x509.MarshalPKCS8PrivateKey(caKey)
	serverKeyDER, err2 := x509.MarshalPKCS8PrivateKey(serverKey)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	return map[string][]byte{
		"ca.pem":     block("CERTIFICATE", caDER),
		"ca.key":     block("PRIVATE KEY", caKeyDER),
		"server.pem": block("CERTIFICATE", serverDER),
		"server.key": block("PRIVATE KEY", serverKeyDER),
	}, nil
}

// write writes all of the files, or leaves none of them.
func (c *devcertCommand) write(files map[string][]byte) (err error) {
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	var written []string
	defer func() {
		if err != nil {
			for _, path := range written {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	for name, text := range files {
		path := filepath.Join(c.Out, name)
		mode := fs.FileMode(0o644)
		if filepath.Ext(name) == ".key" {
			mode = 0o600
		}
		if err := vetted.WriteNew(path, text, mode); err != nil {
			return err
		}
		written = append(written, path)
	}
	return nil
}
