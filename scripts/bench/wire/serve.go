package wire

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
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/overload"
)

// Variant is how a server is protected.
type Variant string

const (
	unprotected Variant = "unprotected"
	Guarded     Variant = "handoff"
	GuardedTap  Variant = "handoff, with overload"
	byHand      Variant = "golang-jwt by hand"
	publishing  Variant = "a publisher"
)

// Serve is a child's life.
func Serve(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
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
	s, press, greeting, err := open(ctx, o)
	if err != nil {
		return errors.Join(err, answers.Encode(hello{Error: err.Error()}))
	}
	defer s.Stop()
	if err := answers.Encode(greeting); err != nil {
		return err
	}
	for {
		line, err := orders.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := answers.Encode(obeyed(ctx, press, strings.TrimSpace(line))); err != nil {
			return err
		}
	}
}

// obeyed does what a line says, and answers it. press is nil where nothing is published.
func obeyed(ctx context.Context, press *press, line string) (t told) {
	if press != nil {
		if err := press.obey(ctx, line); err != nil {
			t.Error = err.Error()
		}
		t.Moved = press.moved.Load()
	}
	t.Processor = measure.ProcessorTime()
	return t
}

// open starts the ordered server. press is nil unless it publishes.
func open(ctx context.Context, o order) (*grpc.Server, *press, hello, error) {
	certificate, err := newCertificate()
	if err != nil {
		return nil, nil, hello{}, err
	}
	of, err := o.prepare(ctx)
	if err != nil {
		return nil, nil, hello{}, err
	}
	transport := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	s := grpc.NewServer(append(of.options, grpc.Creds(transport), grpc.MaxConcurrentStreams(100), grpc.NumStreamWorkers(64))...)
	if err := of.register(s); err != nil {
		return nil, nil, hello{}, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, hello{}, err
	}
	at := hello{Address: listener.Addr().String(), Certificate: certificate.Certificate[0]}
	if of.listen != nil {
		listener = of.listen(listener)
	}
	go func() { _ = s.Serve(listener) }()
	return s, of.press, at, nil
}

// parts are what a server is made of.
type parts struct {
	options  []grpc.ServerOption
	register func(*grpc.Server) error
	listen   func(net.Listener) net.Listener // nil: as it is
	press    *press
}

func (o order) prepare(ctx context.Context) (of parts, err error) {
	if o.Variant == publishing {
		if of.press, err = newPress(ctx, o.Entries); err != nil {
			return of, err
		}
		of.listen = of.press.listen
		of.register = func(s *grpc.Server) error { of.press.publisher.Register(s); return nil }
		return of, nil
	}
	of.register = func(s *grpc.Server) error {
		server2v1.RegisterInvoiceServiceServer(s, till{})
		return nil
	}
	if o.Variant == unprotected {
		return of, nil
	}
	keys, err := keyset.Parse(o.Keys)
	if err != nil {
		return of, err
	}
	key := keys.Keys()[0]
	switch o.Variant {
	case byHand:
		of.options = append(of.options, grpc.UnaryInterceptor(newHandmade(raced.NewGolangJWT(key.Algorithm(), key.Public())).unary))
		return of, nil
	case Guarded, GuardedTap:
		return o.guard(ctx, key)
	}
	return of, fmt.Errorf("no variant %q", o.Variant)
}

// guard returns the parts of a guarded server.
func (o order) guard(ctx context.Context, key handoff.Key) (of parts, err error) {
	billing, err := raced.NewBilling(ctx, o.Dir, key)
	if err != nil {
		return of, err
	}
	shedder, err := overload.New(overload.Config{MaxOpen: 1 << 20}) // one network calls, and calls to be refused
	if err != nil {
		return of, err
	}
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: billing.Verifier, Admit: shedder.Admit})
	if err != nil {
		return of, err
	}
	of.register = func(s *grpc.Server) error {
		server2v1.RegisterInvoiceServiceServer(guard.On(s), till{granted: true})
		return guard.Check(s)
	}
	if o.Variant == GuardedTap {
		of.options, of.listen = shedder.Options(), shedder.Listener
	}
	return of, nil
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
