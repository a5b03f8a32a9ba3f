package handoffgrpc

import (
	"context"
	"crypto/x509"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// PeerCertificate returns the certificate of an incoming call's client, or nil if its
// connection has none. The client has proved in the TLS handshake of this connection
// that it has the key; nobody has looked at who issued the certificate, nor at its
// dates. That is enough to bind a token to it (RFC 8705 section 3.1), and nothing else.
//
// The server's TLS must ask for one: tls.Config{ClientAuth: tls.RequestClientCert}. See
// Config.TLS.
// Behind a proxy that ends TLS there is the proxy's or none: what the proxy says of
// the client in metadata is not looked at. An in-memory connection has none.
func PeerCertificate(ctx context.Context) *x509.Certificate {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok || !info.State.HandshakeComplete || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}
