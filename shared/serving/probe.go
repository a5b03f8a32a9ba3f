package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// Probe is a command that asks a server on this machine for its health, where nothing
// else can: in a container without a shell, and by an orchestrator whose own probes
// speak no TLS. It reads the settings of the server, and its certificate, but no key;
// with Live not even the certificate: a server goes on with the last good one where its
// file says something worse, and is not to be ended for that.
type Probe struct {
	Listen  string `default:"${listen}" placeholder:"HOST:PORT" help:"As for serve."`
	TLSCert string `required:"" placeholder:"FILE" help:"As for serve: the answer counts only from who has this very certificate. With --live it is not read."`
	Live    bool   `help:"Ask only whether it answers at its address, with any certificate, which it also does while its health says NOT_SERVING, while it has as many connections as it can, and while the file of --tls-cert has changed to one that it does not use."`
}

// probeTimeout is how long the answer may take.
const probeTimeout = 5 * time.Second

// Ask returns nil if the server answers that it is serving, or, with Live, if it answers
// TLS at all.
func (p Probe) Ask(ctx context.Context) error {
	address, err := here(p.Listen)
	if err != nil {
		return &SettingError{"listen", err}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if p.Live {
		return alive(ctx, address)
	}
	config, err := pinned(p.TLSCert)
	if err != nil {
		return &SettingError{"tls-cert", err}
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithDisableServiceConfig())
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return silent(address, err)
	}
	if s := answer.GetStatus(); s != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the server at %s is %s", address, s)
	}
	return nil
}

func silent(address string, err error) error {
	return fmt.Errorf("the server at %s does not answer: %w", address, err)
}

// alive returns nil if there is an answer to the first words of TLS. It trusts nobody, and
// so goes no further: any certificate is an answer, and so is a closed connection, as a
// server with too many closes a new one. Only silence is none.
func alive(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return silent(address, err)
	}
	defer conn.Close()
	nobody := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "probe", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}
	err = tls.Client(conn, nobody).HandshakeContext(ctx)
	if _, other := errors.AsType[tls.RecordHeaderError](err); other || ctx.Err() != nil {
		return silent(address, err)
	}
	return nil
}

// here is where a server that listens on an address is reached from its own machine.
func here(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	switch {
	case err != nil:
		return "", fmt.Errorf("must be HOST:PORT: %w", err)
	case port == "0" || port == "":
		return "", errors.New("must have a port")
	case host == "" || host == "0.0.0.0":
		host = "127.0.0.1"
	case host == "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}

// pinned trusts a certificate in a file and no other, from any issuer.
func pinned(file string) (*tls.Config, error) {
	text, err := vetted.File{Path: file, Max: maxPEM}.Read()
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	config.RootCAs.AddCert(leaf)
	switch {
	case len(leaf.DNSNames) > 0:
		config.ServerName = strings.Replace(leaf.DNSNames[0], "*", "probe", 1)
	case len(leaf.IPAddresses) > 0:
		config.ServerName = leaf.IPAddresses[0].String()
	default:
		return nil, fmt.Errorf("%s names no host", file)
	}
	return config, nil
}
