package serving

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
)

// G17: what a client shows as its certificate, which its connection then holds, is small,
// and each connection has its own proof.
func TestG17ClientCertificates(t *testing.T) {
	chain := func(n, size int) (chain []*x509.Certificate) {
		for range n {
			chain = append(chain, &x509.Certificate{Raw: make([]byte, size)})
		}
		return chain
	}
	for name, c := range map[string]struct {
		state tls.ConnectionState
		ok    bool
	}{
		"none":                 {tls.ConnectionState{}, true},
		"one":                  {tls.ConnectionState{PeerCertificates: chain(1, 2000)}, true},
		"as much as there may": {tls.ConnectionState{PeerCertificates: chain(8, 2048)}, true},
		"one too many":         {tls.ConnectionState{PeerCertificates: chain(9, 100)}, false},
		"too long":             {tls.ConnectionState{PeerCertificates: chain(1, 16<<10+1)}, false},
		"long by its OCSP":     {tls.ConnectionState{PeerCertificates: chain(1, 100), OCSPResponse: make([]byte, 16<<10)}, false},
		"long by its SCTs": {tls.ConnectionState{
			PeerCertificates: chain(1, 100), SignedCertificateTimestamps: [][]byte{make([]byte, 16<<10)},
		}, false},
	} {
		if err := smallCertificates(c.state); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	asking := (&certificate{}).grpcConfig(true)
	if asking.VerifyConnection == nil || !asking.SessionTicketsDisabled {
		t.Error("a server that asks for certificates does not look at them, or resumes connections")
	}
}
