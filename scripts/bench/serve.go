package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"runtime/pprof"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// variant is how a server is protected.
type variant string

const (
	unprotected variant = "unprotected"
	guarded     variant = "handoff"
	guardedTap  variant = "handoff, with Guard.Tap"
	byHand      variant = "golang-jwt by hand"
)

// serve is a child's life.
func serve(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	orders, answers := bufio.NewReader(stdin), json.NewEncoder(stdout)
	text, err := orders.ReadBytes('\n')
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(text, &o); err != nil {
		return err
	}
	if o.Profile != "" {
		f, err := os.Create(o.Profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	s, greeting, err := open(ctx, o)
	if err != nil {
		return errors.Join(err, answers.Encode(hello{Error: err.Error()}))
	}
	defer s.Stop()
	if err := answers.Encode(greeting); err != nil {
		return err
	}
	for {
		if _, err := orders.ReadString('\n'); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := answers.Encode(usage{Processor: processorTime()}); err != nil {
			return err
		}
	}
}

// open starts the ordered server.
func open(ctx context.Context, o order) (*grpc.Server, hello, error) {
	keys, err := keyset.Parse(o.Keys)
	if err != nil {
		return nil, hello{}, err
	}
	certificate, err := newCertificate()
	if err != nil {
		return nil, hello{}, err
	}
	options := []grpc.ServerOption{grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13,
	}))}
	check := func(*grpc.Server) error { return nil }
	listen := func(l net.Listener) net.Listener { return l }
	switch key := keys.Keys()[0]; o.Variant {
	case unprotected:
	case guarded, guardedTap:
		billing, err := newBilling(ctx, o.Dir, key)
		if err != nil {
			return nil, hello{}, err
		}
		guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: billing.verifier})
		if err != nil {
			return nil, hello{}, err
		}
		options = append(options, grpc.UnaryInterceptor(guard.Unary), grpc.StreamInterceptor(guard.Stream))
		if o.Variant == guardedTap {
			options = append(options, grpc.InTapHandle(guard.Tap))
			listen = guard.Listener
		}
		check = guard.Check
	case byHand:
		options = append(options, grpc.UnaryInterceptor(newHandmade(newGolangJWT(key.Algorithm(), key.Public())).unary))
	default:
		return nil, hello{}, fmt.Errorf("no variant %q", o.Variant)
	}
	s := grpc.NewServer(append(options, grpc.MaxConcurrentStreams(100), grpc.NumStreamWorkers(64))...)
	server2v1.RegisterInvoiceServiceServer(s, till{granted: o.Variant == guarded || o.Variant == guardedTap})
	if err := check(s); err != nil {
		return nil, hello{}, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, hello{}, err
	}
	go func() { _ = s.Serve(listen(listener)) }()
	return s, hello{Address: listener.Addr().String(), Certificate: certificate.Certificate[0]}, nil
}

// till is the service: it keeps nothing, so that the protection is what differs.
type till struct {
	server2v1.UnimplementedInvoiceServiceServer
	granted bool // the handler insists on its grant
}

var errNoGrant = errors.New("no grant")

func (t till) PayInvoice(ctx context.Context, req *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	if _, ok := handoff.FromContext(ctx); !ok && t.granted {
		return nil, errNoGrant
	}
	return &server2v1.PayInvoiceResponse{Payment: &server2v1.Payment{
		PaymentId: "pay-1", InvoiceId: req.GetInvoiceId(), Amount: req.GetAmount(), Memo: req.GetMemo(),
	}}, nil
}

// newCertificate makes a certificate for the loopback address.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
