package serving

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// A certificate is a certificate chain and its key in files, read again when they
// change. What does not load, has expired or is not valid yet never replaces what
// is in use.
type certificate struct {
	files *vetted.Followed[*tls.Certificate]
}

// maxPEM bounds what is read of a file, in bytes.
const maxPEM = 1 << 20

func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	chain := vetted.File{Path: certFile, Max: maxPEM}
	key := vetted.File{Path: keyFile, Max: maxPEM, Secret: true}
	if _, err := chain.Read(); err != nil {
		return nil, &SettingError{"tls-cert", err}
	}
	if _, err := key.Read(); err != nil {
		return nil, &SettingError{"tls-key", err}
	}
	c := new(certificate)
	observe := func(err error) {
		if err != nil {
			log.Warn("the changed certificate is not used: the last good one stays", "error", err.Error())
			return
		}
		log.Info("certificate loaded again", "expires", c.get().Leaf.NotAfter)
	}
	var err error
	c.files, err = vetted.Follow(func(texts [][]byte) (*tls.Certificate, error) {
		return pair(certFile, texts[0], texts[1])
	}, observe, chain, key)
	if err != nil {
		return nil, &SettingError{"tls-cert", err}
	}
	return c, nil
}

// pair returns a certificate that is valid now.
func pair(name string, chain, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("%s, with --tls-key: %w", name, err)
	}
	switch now := time.Now(); {
	case now.After(pair.Leaf.NotAfter):
		return nil, fmt.Errorf("%s expired at %s", name, pair.Leaf.NotAfter.Format(time.RFC3339))
	case now.Before(pair.Leaf.NotBefore):
		return nil, fmt.Errorf("%s is not valid before %s", name, pair.Leaf.NotBefore.Format(time.RFC3339))
	}
	return &pair, nil
}

func (c *certificate) get() *tls.Certificate { return c.files.Get() }

// tlsConfig is for TLS 1.3 alone (RFC 9325 section 3.1.1 between services that
// are all new).
func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil },
	}
}

// grpcConfig is tlsConfig for gRPC, where clients may be asked for a certificate. A
// browser that is asked shows its user a question, so nothing else asks.
func (c *certificate) grpcConfig(ask bool) *tls.Config {
	config := c.tlsConfig()
	if ask {
		config.ClientAuth = tls.RequestClientCert // from any issuer: a handoff is bound to the certificate itself
		config.VerifyConnection = smallCertificates
		// A resumed connection would have the certificate of an earlier one, and no proof
		// of its key. It would also keep what the ticket has.
		config.SessionTicketsDisabled = true
	}
	return config
}

// What a client may show as its certificate: one is looked at, and the connection holds
// all of them for as long as it lives. TLS itself allows 256 KiB.
const (
	maxCertificates     = 8
	maxCertificateBytes = 16 << 10
)

var errCertificates = errors.New("the client's certificates are too many or too long")

// smallCertificates refuses a connection whose client shows more than any needs.
func smallCertificates(state tls.ConnectionState) error {
	if len(state.PeerCertificates) > maxCertificates {
		return errCertificates
	}
	bytes := len(state.OCSPResponse)
	for _, one := range state.PeerCertificates {
		bytes += len(one.Raw)
	}
	for _, one := range state.SignedCertificateTimestamps {
		bytes += len(one)
	}
	if bytes > maxCertificateBytes {
		return errCertificates
	}
	return nil
}
