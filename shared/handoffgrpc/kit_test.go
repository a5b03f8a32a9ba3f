package handoffgrpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuer   = "https://shop.example"
	audience = "https://billing.example"
	alice    = "user-1"
)

// keys is a key source of one key, whose answers a test can change.
type keys struct {
	key forge.Key

	mu      sync.Mutex
	asked   int
	hold    chan struct{} // if set, Key waits for it
	broken  bool          // Key panics
	revoked error         // what Revoked answers
}

func (k *keys) Key(_ context.Context, kid string) (handoff.Key, error) {
	k.mu.Lock()
	k.asked++
	hold, broken := k.hold, k.broken
	k.mu.Unlock()
	if broken {
		panic("the keys")
	}
	if hold != nil {
		<-hold
	}
	if kid != k.key.Public.ID() {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return k.key.Public.WithRevocations(k), nil
}

func (k *keys) Revoked(context.Context, *handoff.Claims) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.revoked
}

func (k *keys) revoke(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revoked = err
}

// stall has Key wait for the channel; nil ends that.
func (k *keys) stall(hold chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hold = hold
}

// shatter has Key panic, or no longer.
func (k *keys) shatter(broken bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broken = broken
}

// times is how often Key has been asked.
func (k *keys) times() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

// store is a handoff.Store that shows what it was told.
type store struct {
	mu   sync.Mutex
	told []handoff.Redemption
	fail error
}

func (s *store) Redeem(_ context.Context, r handoff.Redemption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if slices.ContainsFunc(s.told, func(t handoff.Redemption) bool { return t.Issuer == r.Issuer && t.ID == r.ID }) {
		return handoff.ErrReplayed
	}
	s.told = append(s.told, r)
	return nil
}

func (s *store) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.told)
}

// recorder is what Observe has been told, and what the handlers have been asked, in order.
type recorder struct {
	mu     sync.Mutex
	events []handoffgrpc.Event
	ran    []string // methods whose handler ran, each with the number of events before it
	before []int
}

func (r *recorder) observe(_ context.Context, e handoffgrpc.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) run(method string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ran, r.before = append(r.ran, method), append(r.before, len(r.events))
}

// take returns the events so far and forgets them.
func (r *recorder) take() []handoffgrpc.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

// handlers ran since the last call.
func (r *recorder) handlers() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ran := r.ran
	r.ran = nil
	return ran
}

// invoices implements every kind of method. A handler without a grant fails the call.
type invoices struct {
	server2v1.UnimplementedInvoiceServiceServer
	*recorder
	export func(grpc.ServerStreamingServer[server2v1.ExportPaymentsResponse]) error
}

var errNoGrant = errors.New("no grant")

func (s *invoices) GetInvoice(ctx context.Context, req *server2v1.GetInvoiceRequest) (*server2v1.GetInvoiceResponse, error) {
	s.run("GetInvoice")
	if _, ok := handoff.FromContext(ctx); !ok {
		return nil, errNoGrant
	}
	return &server2v1.GetInvoiceResponse{Invoice: &server2v1.Invoice{InvoiceId: req.GetInvoiceId()}}, nil
}

func (s *invoices) PayInvoice(ctx context.Context, _ *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	s.run("PayInvoice")
	grant, ok := handoff.FromContext(ctx)
	if !ok {
		return nil, errNoGrant
	}
	return &server2v1.PayInvoiceResponse{Payment: &server2v1.Payment{HandoffId: grant.ID()}}, nil
}

func (s *invoices) ExportPayments(
	_ *server2v1.ExportPaymentsRequest, stream grpc.ServerStreamingServer[server2v1.ExportPaymentsResponse],
) error {
	s.run("ExportPayments")
	if _, ok := handoff.FromContext(stream.Context()); !ok {
		return errNoGrant
	}
	if s.export != nil {
		return s.export(stream)
	}
	return stream.Send(&server2v1.ExportPaymentsResponse{Payment: &server2v1.Payment{PaymentId: "1"}})
}

// kit is a guarded server with everything that a test may want to look at.
type kit struct {
	*recorder
	keys     *keys
	store    *store
	verifier *handoff.Verifier
	guard    *handoffgrpc.Guard
	invoices *invoices
	listen   func(net.Listener) net.Listener // what its listener is wrapped with
}

// newKit makes a guard, with the config that is given, except for what the kit provides.
func newKit(t testing.TB, config handoffgrpc.Config) *kit {
	t.Helper()
	k := &kit{
		recorder: &recorder{},
		keys:     &keys{key: *forge.NewKey(handoff.EdDSA)},
		store:    &store{},
	}
	k.invoices = &invoices{recorder: k.recorder}
	k.listen = func(l net.Listener) net.Listener { return l }
	var err error
	k.verifier, err = handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{issuer: k.keys}, Store: k.store,
	})
	if err != nil {
		t.Fatal(err)
	}
	config.Verifier = k.verifier
	if config.Observe == nil {
		config.Observe = k.observe
	}
	if config.Exempt == nil {
		config.Exempt = []string{"/grpc.health.v1.Health/"}
	}
	if k.guard, err = handoffgrpc.NewGuard(config); err != nil {
		t.Fatal(err)
	}
	return k
}

// check registers the services and has the guard check them, without a network.
func (k *kit) check(t testing.TB) {
	t.Helper()
	if err := k.guard.Check(k.server()); err != nil {
		t.Fatal(err)
	}
}

func (k *kit) server(options ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(options...)
	server2v1.RegisterInvoiceServiceServer(k.guard.On(s), k.invoices)
	healthv1.RegisterHealthServer(k.guard.On(s), health.NewServer())
	return s
}

// serve starts a checked server over TLS and returns a connection to it.
func (k *kit) serve(t testing.TB, options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	client, server := tlsPair()
	s := k.server(append(options, grpc.Creds(credentials.NewTLS(server)))...)
	if err := k.guard.Check(s); err != nil {
		t.Fatal(err)
	}
	return dial(t, start(t, s, k.listen), credentials.NewTLS(client))
}

// start serves s in memory, behind what wraps the listener, until the test ends.
func start(t testing.TB, s *grpc.Server, wraps ...func(net.Listener) net.Listener) *bufconn.Listener {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	var wrapped net.Listener = listener
	for _, wrap := range wraps {
		wrapped = wrap(wrapped)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(wrapped) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener
}

func dial(t testing.TB, listener *bufconn.Listener, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///billing.example",
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// tlsPair returns both ends' configuration under an authority that exists only in memory.
func tlsPair() (client, server *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"billing.example"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	client = &tls.Config{RootCAs: roots, ServerName: "billing.example", MinVersion: tls.VersionTLS13}
	server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
	}
	return client, server
}

// good returns a token for a call, to be spoiled or sent.
func (k *kit) good(t testing.TB, method string, req proto.Message) forge.Token {
	t.Helper()
	op, err := rule.Operation(method, req)
	if err != nil {
		t.Fatal(err)
	}
	return forge.Good(forge.Params{
		Key: &k.keys.key, Issuer: issuer, Audience: audience, Subject: alice, Operation: op, IssuedAt: time.Now(),
	})
}

func payment() *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: "r-1", Memo: "rent",
	}
}

// pay returns a token for payment().
func (k *kit) pay(t testing.TB) forge.Token {
	t.Helper()
	return k.good(t, server2v1.InvoiceService_PayInvoice_FullMethodName, payment())
}

// export returns a token for an export of everything.
func (k *kit) export(t testing.TB) forge.Token {
	t.Helper()
	return k.good(t, server2v1.InvoiceService_ExportPayments_FullMethodName, &server2v1.ExportPaymentsRequest{})
}
