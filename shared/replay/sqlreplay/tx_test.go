package sqlreplay_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/replay/sqlreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

const (
	audience = "https://billing.example"
	pay      = server2v1.InvoiceService_PayInvoice_FullMethodName
)

// billing pays invoices in transactions with the redemptions.
type billing struct {
	server2v1.UnimplementedInvoiceServiceServer
	store  *opened
	issuer *handofftest.Issuer
	client server2v1.InvoiceServiceClient
	conn   *grpc.ClientConn

	mu     sync.Mutex
	pays   func(ctx context.Context, invoice string) error // what PayInvoice does
	events []handoffgrpc.Event
}

func (b *billing) PayInvoice(ctx context.Context, req *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	b.mu.Lock()
	pays := b.pays
	b.mu.Unlock()
	if _, ok := handoff.FromContext(ctx); ok {
		return nil, status.Error(codes.Internal, "a grant before the redemption")
	}
	if err := pays(ctx, req.GetInvoiceId()); err != nil {
		return nil, err
	}
	return &server2v1.PayInvoiceResponse{Payment: &server2v1.Payment{PaymentId: "P-1"}}, nil
}

// observe keeps what the guard tells.
func (b *billing) observe(_ context.Context, e handoffgrpc.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

func (b *billing) told() (events []handoffgrpc.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, b.events = b.events, nil
	return events
}

// paying is the handler as an adopter writes it. between comes before the commit.
func (b *billing) paying(options *sql.TxOptions, between func(*sqlreplay.Tx) error) func(context.Context, string) error {
	return func(ctx context.Context, invoice string) error {
		tx, err := b.store.Begin(ctx, options)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, `INSERT INTO paid VALUES ($1, $2, $3)`, tx.Grant().ID(), tx.Grant().Subject(), invoice); err != nil {
			return err
		}
		if between != nil {
			if err := between(tx); err != nil {
				return err
			}
		}
		return tx.Commit()
	}
}

func (b *billing) does(pays func(context.Context, string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pays = pays
}

func newBilling(t *testing.T, location string, change func(*handoffgrpc.Config)) *billing {
	t.Helper()
	b := &billing{store: open(t, location, sqlreplay.Config{}), issuer: handofftest.NewIssuer(t)}
	do(t, b.store.db, `CREATE TABLE IF NOT EXISTS paid (handoff text, payer text, invoice text)`)
	age(t, b.store.db)
	b.does(b.paying(nil, nil))
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{b.issuer.Name(): b.issuer.Keys()}, Store: b.store,
	})
	if err != nil {
		t.Fatal(err)
	}
	config := handoffgrpc.Config{Verifier: verifier, Deferred: []string{pay}, Observe: b.observe}
	if change != nil {
		change(&config)
	}
	guard, err := handoffgrpc.NewGuard(config)
	if err != nil {
		t.Fatal(err)
	}
	recovering := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
		defer func() {
			if recover() != nil {
				err = status.Error(codes.Internal, "a panic")
			}
		}()
		return next(ctx, req)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(recovering), grpc.WaitForHandlers(true))
	server2v1.RegisterInvoiceServiceServer(guard.On(server), b)
	if err := guard.Check(server); err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	b.conn, err = grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.conn.Close(); server.Stop() })
	b.client = server2v1.NewInvoiceServiceClient(b.conn)
	return b
}

func payment(invoice string) *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		RequestId: "00000000-0000-4000-8000-000000000001", InvoiceId: invoice, Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200},
	}
}

func (b *billing) token(t *testing.T) string {
	t.Helper()
	return b.issuer.Token(t, audience, "u-1", pay, payment("INV-1"))
}

func (b *billing) call(raw string) error {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+raw)
	_, err := b.client.PayInvoice(ctx, payment("INV-1"))
	return err
}

// paid returns how often an effect was kept, and the marks.
func (b *billing) paid(t *testing.T) (effects, marks int) {
	t.Helper()
	return count(t, b.store.db, `SELECT count(*) FROM paid`), count(t, b.store.db, `SELECT count(*) FROM handoff_redemptions WHERE length(mark) = 16`)
}

func (b *billing) wants(t *testing.T, what string, effects, marks int) {
	t.Helper()
	servingtest.Eventually(t, what, func() bool {
		e, m := b.paid(t)
		return e == effects && m == marks
	})
}

func TestTransactions(t *testing.T) {
	server := servingtest.StartPostgres(t)
	for name, test := range map[string]func(*testing.T, string){
		"kept and undone together":       testTogether,
		"a handler that forgets":         testForgets,
		"two at once":                    testTwoAtOnce,
		"a stricter isolation":           testIsolation,
		"tried again in the same call":   testTriedAgain,
		"the attack kit":                 testAttackKit,
		"Check":                          testCheck,
		"the store is away":              testAway,
		"the first answer, from a table": testOutcome,
	} {
		t.Run(name, func(t *testing.T) { test(t, database(t, server)) })
	}
}

var errLater = status.Error(codes.Aborted, "the handler's own error")

// A handler that fails has neither its effect nor the redemption, and the token is good
// for another try; one that commits has both.
func testTogether(t *testing.T, location string) {
	b := newBilling(t, location, nil)
	raw := b.token(t)
	for what, between := range map[string]func(*sqlreplay.Tx) error{
		"an error":    func(*sqlreplay.Tx) error { return errLater },
		"a panic":     func(*sqlreplay.Tx) error { panic("in the handler") },
		"a failure":   func(tx *sqlreplay.Tx) error { _, err := tx.Exec(`SELECT 1/0`); return errors.Join(err, errLater) },
		"a rollback":  func(tx *sqlreplay.Tx) error { return errors.Join(tx.Rollback(), errLater) },
		"a late undo": func(tx *sqlreplay.Tx) error { tx.Tx.Rollback(); return tx.Commit() },
	} {
		b.does(b.paying(nil, between))
		if err := b.call(raw); err == nil || handoffgrpc.ReasonOf(err) != 0 {
			t.Errorf("%s: %v", what, err)
		}
		b.wants(t, what+" undoes both", 0, 0)
	}
	for _, e := range b.told() {
		if e.Grant == nil || e.Refusal != nil && e.Refusal.Check != "guard.undone" {
			t.Errorf("observed %+v", e)
		}
	}
	b.does(b.paying(nil, nil))
	if err := b.call(raw); err != nil {
		t.Fatal(err)
	}
	b.wants(t, "both are kept", 1, 1)
	if e := b.told(); len(e) != 1 || e[0].Grant == nil || e[0].Refusal != nil {
		t.Errorf("observed %+v", e)
	}
	if err := b.call(raw); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenReplayed {
		t.Errorf("again: %v", err)
	}
	if e := b.told(); len(e) != 1 || e[0].Grant != nil || e[0].Refusal.Reason != handoff.ReasonTokenReplayed {
		t.Errorf("observed %+v", e)
	}
	b.wants(t, "once", 1, 1)
}

// The answer of a handler that has kept no redemption is given to nobody.
func testForgets(t *testing.T, location string) {
	b := newBilling(t, location, nil)
	var left *sqlreplay.Tx
	for what, pays := range map[string]func(context.Context, string) error{
		"begins nothing":      func(context.Context, string) error { return nil },
		"commits nothing":     func(ctx context.Context, _ string) error { _, err := b.store.Begin(ctx, nil); return err },
		"rolls back":          b.paying(nil, func(tx *sqlreplay.Tx) error { defer tx.Tx.Commit(); return tx.Rollback() }),
		"leaves it to others": func(ctx context.Context, _ string) (err error) { left, err = b.store.Begin(ctx, nil); return err },
	} {
		b.does(func(ctx context.Context, invoice string) error { _ = pays(ctx, invoice); return nil })
		if err := b.call(b.token(t)); status.Code(err) != codes.Internal {
			t.Errorf("a handler that %s: %v", what, err)
		}
		e := b.told()
		if last := e[len(e)-1]; last.Refusal == nil || last.Refusal.Check != "guard.deferred" {
			t.Errorf("a handler that %s: observed %+v", what, last)
		}
	}
	if err := left.Commit(); err == nil {
		t.Error("committed after the call")
	}
	b.wants(t, "nothing is kept", 0, 0)
	// A refusal that the handler swallows is the answer all the same.
	raw := b.token(t)
	if err := b.store.Redeem(t.Context(), redemptionOf(t, b, raw)); err != nil {
		t.Fatal(err)
	}
	b.does(func(ctx context.Context, invoice string) error { _ = b.paying(nil, nil)(ctx, invoice); return nil })
	if err := b.call(raw); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenReplayed {
		t.Errorf("a swallowed refusal: %v", err)
	}
	// Elsewhere there is nothing to redeem.
	if _, err := b.store.Begin(t.Context(), nil); err == nil {
		t.Error("a transaction without a call")
	}
}

// redemptionOf is the redemption of a token, as a verifier has it.
func redemptionOf(t *testing.T, b *billing, raw string) handoff.Redemption {
	t.Helper()
	var r handoff.Redemption
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{b.issuer.Name(): b.issuer.Keys()}, Store: b.store,
	})
	if err != nil {
		t.Fatal(err)
	}
	verified, err := verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	c := verified.Claims()
	r = handoff.Redemption{Issuer: c.Issuer, ID: c.ID, IssuedAt: c.IssuedAt, Expires: c.Expires}
	return r
}

// Of two calls with one token, the second waits for the first: it is refused where that
// commits, and runs where that rolls back.
func testTwoAtOnce(t *testing.T, location string) {
	for name, first := range map[string]error{"the first commits": nil, "the first fails": errLater} {
		t.Run(name, func(t *testing.T) {
			b := newBilling(t, location, nil)
			do(t, b.store.db, `DELETE FROM paid`, `DELETE FROM handoff_redemptions WHERE length(mark) = 16`)
			begun, waits := make(chan bool, 2), make(chan bool)
			b.does(b.paying(nil, func(*sqlreplay.Tx) error {
				begun <- true
				<-waits
				return first
			}))
			raw := b.token(t)
			answers := make(chan error, 2)
			go func() { answers <- b.call(raw) }()
			<-begun
			b.does(b.paying(nil, nil))
			go func() { answers <- b.call(raw) }()
			servingtest.Eventually(t, "the second waits", func() bool {
				return count(t, b.store.db, `SELECT count(*) FROM pg_locks WHERE NOT granted`) > 0
			})
			close(waits)
			one, two := <-answers, <-answers
			reasons := map[string]bool{status.Code(one).String(): true, status.Code(two).String(): true}
			want := codes.Aborted
			if first == nil {
				want = codes.FailedPrecondition
			}
			if !reasons[codes.OK.String()] || !reasons[want.String()] {
				t.Errorf("got %v and %v", one, two)
			}
			b.wants(t, "once", 1, 1)
		})
	}
}

// With a stricter isolation, a second call of the same token is told the same.
func testIsolation(t *testing.T, location string) {
	b := newBilling(t, location, nil)
	for _, level := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
		raw := b.token(t)
		begun, waits := make(chan bool, 2), make(chan bool)
		options := &sql.TxOptions{Isolation: level}
		b.does(b.paying(options, func(*sqlreplay.Tx) error {
			begun <- true
			<-waits
			return nil
		}))
		answers := make(chan error, 2)
		go func() { answers <- b.call(raw) }()
		<-begun
		b.does(b.paying(options, nil))
		go func() { answers <- b.call(raw) }()
		servingtest.Eventually(t, "the second waits", func() bool {
			return count(t, b.store.db, `SELECT count(*) FROM pg_locks WHERE NOT granted`) > 0
		})
		close(waits)
		one, two := <-answers, <-answers
		if one == nil {
			one, two = two, one
		}
		if two != nil || handoffgrpc.ReasonOf(one) != handoff.ReasonTokenReplayed {
			t.Errorf("%v: got %v and %v", level, one, two)
		}
	}
}

// A handler tries its transaction again, as after a serialization failure.
func testTriedAgain(t *testing.T, location string) {
	b := newBilling(t, location, nil)
	tries := 0
	fails := b.paying(nil, func(*sqlreplay.Tx) error {
		if tries++; tries < 3 {
			return errLater
		}
		return nil
	})
	b.does(func(ctx context.Context, invoice string) (err error) {
		for range 3 {
			if err = fails(ctx, invoice); err == nil {
				// A second one in the same call redeems nothing.
				if _, err := b.store.Begin(ctx, nil); err == nil {
					t.Error("redeemed twice in one call")
				}
				return nil
			}
		}
		return err
	})
	raw := b.token(t)
	if err := b.call(raw); err != nil {
		t.Error(err)
	}
	b.wants(t, "once", 1, 1)
}

func testAttackKit(t *testing.T, location string) {
	b := newBilling(t, location, nil)
	handofftest.Attack(t, b.conn, handofftest.Target{Issuer: b.issuer, Audience: audience, Method: pay, Request: payment("INV-1")})
	b.wants(t, "each good call is there with its redemption", 0+count(t, b.store.db, `SELECT count(*) FROM handoff_redemptions WHERE length(mark) = 16`),
		count(t, b.store.db, `SELECT count(DISTINCT handoff) FROM paid`))
}

// Only a unary method whose tokens are spent can be named.
func testCheck(t *testing.T, location string) {
	store := open(t, location, sqlreplay.Config{})
	issuer := handofftest.NewIssuer(t)
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{issuer.Name(): issuer.Keys()}, Store: store,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{
		server2v1.InvoiceService_GetInvoice_FullMethodName, server2v1.InvoiceService_ExportPayments_FullMethodName,
		"/handoff.server2.v1.InvoiceService/", "/handoff.server2.v1.InvoiceService/Nothing", "nothing",
	} {
		guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, Deferred: []string{pay, method}})
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		server2v1.RegisterInvoiceServiceServer(guard.On(server), &server2v1.UnimplementedInvoiceServiceServer{})
		if err := guard.Check(server); err == nil {
			t.Errorf("%s: taken", method)
		}
	}
}

// E06: a database that is away is told as such, by the guard's own status.
func testAway(t *testing.T, location string) {
	b := newBilling(t, location, nil)
	raw := b.token(t)
	do(t, b.store.db, `ALTER TABLE handoff_redemptions RENAME TO away`)
	if err := b.call(raw); handoffgrpc.ReasonOf(err) != handoff.ReasonStoreUnavailable {
		t.Errorf("got %v", err)
	}
	do(t, b.store.db, `ALTER TABLE away RENAME TO handoff_redemptions`)
	servingtest.Eventually(t, "the same token is good", func() bool { return b.call(raw) == nil })
}

// Who has lost the first answer gets it from the table of the effects.
func testOutcome(t *testing.T, location string) {
	var b *billing
	b = newBilling(t, location, func(c *handoffgrpc.Config) {
		c.Outcome = func(ctx context.Context, spent *handoff.Grant) (proto.Message, error) {
			var invoice string
			err := b.store.db.QueryRowContext(ctx, `SELECT invoice FROM paid WHERE handoff = $1`, spent.ID()).Scan(&invoice)
			return &server2v1.PayInvoiceResponse{Payment: &server2v1.Payment{PaymentId: "P-1"}}, err
		}
	})
	raw := b.token(t)
	for range 3 {
		if err := b.call(raw); err != nil {
			t.Error(err)
		}
	}
	b.wants(t, "once", 1, 1)
}
