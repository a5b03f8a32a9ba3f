package issue

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/client"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

const (
	issuerName = "https://shop.example"
	billing    = "https://billing.example"
	payInvoice = server2v1.InvoiceService_PayInvoice_FullMethodName
	permitting = `{"audiences": {"` + billing + `": {"target": "dns:///billing.example:443", "methods": {"` + payInvoice + `": {"roles": ["payer"]}},
		"visits": {"roles": ["payer"], "methods": ["` + server2v1.InvoiceService_ListInvoices_FullMethodName + `"]}}}}`
)

// hooked is a signing key with which somebody does something between a decision and its
// record.
type hooked struct {
	key       *signkey.Key
	meanwhile *func()
}

func (k hooked) Key() handoff.Key { return k.key.Key() }

func (k hooked) Signer(context.Context) (handoff.Signer, error) { return k, nil }

func (k hooked) Sign(ctx context.Context, input []byte) ([]byte, error) {
	if meanwhile := *k.meanwhile; meanwhile != nil {
		*k.meanwhile = nil
		meanwhile()
	}
	return k.key.Sign(ctx, input)
}

// world is an issuer with a user, whose session it knows, and a client.
type world struct {
	*Service
	db        *database.DB
	alice     database.User
	session   database.Session
	sessionID string
	guard     *session.Guard
	nightly   database.Client
	key       *signkey.Key
	clients   *client.Directory
	meanwhile func()
}

func newWorld(t testing.TB, location string, issuerClock func() time.Time) *world {
	t.Helper()
	w := &world{sessionID: "a session id for tests, of 43 characters...."[:43]}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.db, err = database.Open(t.Context(), location)
	must(err)
	t.Cleanup(func() { w.db.Close() })
	now := time.Now().UTC().Truncate(time.Millisecond)
	must(w.db.KeepTerms(t.Context(), trust.Terms{Issuer: issuerName, TokenLifetime: time.Hour, ListLifetime: time.Minute, Skew: 5 * time.Second}, now))
	w.alice = database.User{ID: handoff.NewID(), Name: "alice", PasswordHash: "x", Roles: []string{"payer"}, Created: now}
	must(w.db.AddUser(t.Context(), w.alice))
	sum := sha256.Sum256([]byte(w.sessionID))
	w.session = database.Session{
		IDSHA256: base64.RawURLEncoding.EncodeToString(sum[:]), HandoffID: handoff.NewID(), User: w.alice,
		Created: now, IdleExpires: now.Add(time.Hour), Expires: now.Add(time.Hour),
	}
	must(w.db.StartSession(t.Context(), w.session))
	w.key, err = signkey.Generate(handoff.EdDSA)
	must(err)
	public, err := keyset.New(w.key.Key())
	must(err)
	jwk, err := public.MarshalJSON()
	must(err)
	w.nightly = database.Client{
		User: database.User{ID: handoff.NewID(), Name: "nightly", Roles: []string{"payer"}, Created: now},
		Keys: []database.ClientKey{{ID: w.key.Key().ID(), JWK: string(jwk), Added: now}, {ID: "another", JWK: string(jwk), Added: now}},
	}
	must(w.db.AddClient(t.Context(), w.nightly))
	record := audit.New(io.Discard)
	keeper, err := session.NewKeeper(session.KeeperConfig{DB: w.db, Idle: time.Hour, Lifetime: time.Hour, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	must(err)
	w.guard = session.NewGuard(keeper)
	w.clients, err = client.NewDirectory(client.Config{DB: w.db, Issuer: issuerName, Skew: 5 * time.Second, Record: record, Now: time.Now})
	must(err)
	file := filepath.Join(t.TempDir(), "policy.json")
	must(os.WriteFile(file, []byte(permitting), 0o600))
	permitted, err := policy.Load(file, rule.Linked(), policy.Limits{Handoff: time.Minute, Visit: time.Hour})
	must(err)
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: issuerName, Key: hooked{w.key, &w.meanwhile}, MaxVisitLifetime: time.Hour, Now: issuerClock})
	must(err)
	w.Service, err = NewService(Config{Issuer: issuer, Lifetime: time.Minute, Policy: permitted, DB: w.db, Quota: 1_000_000_000, MaxVisits: 50, Record: record, Now: time.Now})
	must(err)
	return w
}

// asUser runs do with the user's session.
func asUser[T any](t testing.TB, w *world, do func(context.Context) (T, error)) (resp T, err error) {
	t.Helper()
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+w.sessionID))
	_, err = w.guard.Unary(ctx, &handoffv1.IssueHandoffRequest{}, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, func(ctx context.Context, _ any) (any, error) {
		resp, err = do(ctx)
		return nil, err
	})
	return resp, err
}

func (w *world) request(t testing.TB, grantID string) *handoffv1.IssueHandoffRequest {
	t.Helper()
	packed, err := anypb.New(&server2v1.PayInvoiceRequest{InvoiceId: "inv-1", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 100}, RequestId: "8c7f1c9e-6f0f-4d42-8a55-8a8c3f8b2d11"})
	if err != nil {
		t.Fatal(err)
	}
	return &handoffv1.IssueHandoffRequest{Audience: billing, Method: payInvoice, Request: packed, GrantId: grantID}
}

// asClient asks as the client, by a grant or for itself.
func (w *world) asClient(t testing.TB, req *handoffv1.IssueHandoffRequest) (*handoffv1.IssueHandoffResponse, error) {
	t.Helper()
	raw, err := assertion.Sign(t.Context(), w.key, assertion.Params{Client: w.nightly.ID, Audience: issuerName})
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := w.clients.Admit(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	return w.IssueHandoff(ctx, req)
}

func (w *world) grant(t *testing.T, life time.Duration) database.Grant {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Millisecond)
	g := database.Grant{
		ID: handoff.NewID(), HandoffID: handoff.NewID(), UserID: w.alice.ID, ClientID: w.nightly.ID, Audience: billing,
		Methods: []string{payInvoice}, Created: now, Expires: now.Add(life),
	}
	if err := w.db.AddGrant(t.Context(), w.session, g, 100); err != nil {
		t.Fatal(err)
	}
	return g
}

// claimsOf returns what a token says, which nobody has verified here.
func claimsOf(t *testing.T, raw string) handoff.Claims {
	t.Helper()
	claims, err := handoff.UnverifiedClaims(raw)
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

// engines runs tests over both databases.
func engines(t *testing.T, tests map[string]func(t *testing.T, location func() string)) {
	t.Helper()
	server := servingtest.StartPostgres(t)
	var mu sync.Mutex // the server is for one goroutine
	postgres := func() string {
		mu.Lock()
		defer mu.Unlock()
		return server.Database(t)
	}
	for name, test := range tests { // which wait for the next second
		t.Run("SQLite/"+name, func(t *testing.T) {
			t.Parallel()
			test(t, func() string { return filepath.Join(t.TempDir(), "server1.db") })
		})
		t.Run("PostgreSQL/"+name, func(t *testing.T) {
			t.Parallel()
			test(t, postgres)
		})
	}
}

// ask asks for a token, and returns it.
type ask func(t *testing.T, w *world, grantID string) (raw string, err error)

func askAsUser(t *testing.T, w *world, _ string) (string, error) {
	resp, err := asUser(t, w, func(ctx context.Context) (*handoffv1.IssueHandoffResponse, error) {
		return w.IssueHandoff(ctx, w.request(t, ""))
	})
	return resp.GetToken(), err
}

func askToVisit(t *testing.T, w *world, _ string) (string, error) {
	resp, err := asUser(t, w, func(ctx context.Context) (*handoffv1.IssueVisitResponse, error) {
		return w.IssueVisit(ctx, &handoffv1.IssueVisitRequest{Audience: billing})
	})
	return resp.GetToken(), err
}

func askAsClient(t *testing.T, w *world, _ string) (string, error) {
	resp, err := w.asClient(t, w.request(t, ""))
	return resp.GetToken(), err
}

func askByGrant(t *testing.T, w *world, grantID string) (string, error) {
	resp, err := w.asClient(t, w.request(t, grantID))
	return resp.GetToken(), err
}

// F02, K04: what is decided while a token is signed is not overtaken by it. Who asks, and
// what they may do, is asked again before another is signed.
func TestDecidedMeanwhile(t *testing.T) {
	const issued handoff.Reason = 0
	takeRole := func(w *world) error {
		_, err := w.db.ChangeRoles(context.Background(), "alice", nil, []string{"payer"}, time.Now())
		return err
	}
	now := time.Now
	later := func() time.Time { return time.Now().Add(2 * time.Second) } // the token is of after the cut-off
	tests := map[string]func(*testing.T, func() string){}
	type outcomes struct{ user, visit, client, grant handoff.Reason }
	for name, c := range map[string]struct {
		clock     func() time.Time
		meanwhile func(*world) error
		want      outcomes
	}{
		"a role is taken":                      {now, takeRole, outcomes{handoff.ReasonPolicyDenied, handoff.ReasonPolicyDenied, issued, handoff.ReasonPolicyDenied}},
		"a role is taken in the second before": {later, takeRole, outcomes{handoff.ReasonPolicyDenied, handoff.ReasonPolicyDenied, issued, handoff.ReasonPolicyDenied}},
		"a role is given": {later, func(w *world) error {
			_, err := w.db.ChangeRoles(context.Background(), "alice", []string{"reader"}, nil, time.Now())
			return err
		}, outcomes{}},
		"the user is cut off": {now, func(w *world) error {
			return w.db.CutOffUser(context.Background(), w.alice.ID, time.Now())
		}, outcomes{}},
		"the client is cut off": {now, func(w *world) error {
			return w.db.CutOffUser(context.Background(), w.nightly.ID, time.Now())
		}, outcomes{}},
		"signed out everywhere": {later, func(w *world) error {
			return w.db.EndSessions(context.Background(), w.session, time.Now())
		}, outcomes{handoff.ReasonSessionInvalid, handoff.ReasonSessionInvalid, issued, handoff.ReasonArgumentInvalid}},
		"a key of the client's is removed": {now, func(w *world) error {
			return w.db.RemoveClientKey(context.Background(), "nightly", "another", time.Now())
		}, outcomes{}},
		"the client is disabled": {later, func(w *world) error {
			return w.db.DisableClient(context.Background(), "nightly", time.Now())
		}, outcomes{issued, issued, handoff.ReasonClientInvalid, handoff.ReasonClientInvalid}},
	} {
		tests[name] = func(t *testing.T, location func() string) {
			for who, a := range map[string]struct {
				ask  ask
				want handoff.Reason
			}{"user": {askAsUser, c.want.user}, "visit": {askToVisit, c.want.visit}, "client": {askAsClient, c.want.client}, "grant": {askByGrant, c.want.grant}} {
				w := newWorld(t, location(), c.clock)
				g := w.grant(t, time.Hour)
				if _, err := askByGrant(t, w, g.ID); err != nil { // so that there is something to take back
					t.Fatal(err)
				}
				w.meanwhile = func() {
					if err := c.meanwhile(w); err != nil {
						t.Error(err)
					}
				}
				raw, err := a.ask(t, w, g.ID)
				if handoffgrpc.ReasonOf(err) != a.want || (err == nil) != (a.want == issued) || w.meanwhile != nil {
					t.Errorf("%s: %v, want %s", who, err, a.want)
				}
				if err == nil {
					w.wantStanding(t, raw)
				}
			}
		}
	}
	engines(t, tests)
}

// wantStanding demands of a token that nothing that was taken back is its.
func (w *world) wantStanding(t *testing.T, raw string) {
	t.Helper()
	claims := claimsOf(t, raw)
	state, err := w.db.Trust(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	terms := trust.Terms{Issuer: issuerName, TokenLifetime: time.Hour, ListLifetime: time.Minute}
	subject, err := terms.Subject(claims.Subject, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range state.Revoked {
		if entry.ID == claims.Session || entry.ID == subject.ID && !entry.Cutoff.Before(claims.IssuedAt) {
			t.Errorf("what is issued is taken back: %+v by %+v", claims, entry)
		}
	}
}

// A token ends with its grant at the latest, even where a longer life is asked for.
func TestNotBeyondTheGrant(t *testing.T) {
	engines(t, map[string]func(*testing.T, func() string){"grant": func(t *testing.T, location func() string) {
		w := newWorld(t, location(), time.Now)
		for _, asked := range []*durationpb.Duration{nil, durationpb.New(time.Minute)} {
			g := w.grant(t, 20*time.Second)
			req := w.request(t, g.ID)
			req.Lifetime = asked
			resp, err := w.asClient(t, req)
			if err != nil {
				t.Fatal(err)
			}
			if claims := claimsOf(t, resp.GetToken()); claims.Expires.After(g.Expires) || !claims.Expires.After(claims.IssuedAt) {
				t.Errorf("the token lives from %s to %s, the grant to %s", claims.IssuedAt, claims.Expires, g.Expires)
			}
		}
		over := w.grant(t, 900*time.Millisecond)
		_, err := w.asClient(t, w.request(t, over.ID))
		if handoffgrpc.ReasonOf(err) != handoff.ReasonArgumentInvalid {
			t.Errorf("with under a second left: %v", err)
		}
		long := w.grant(t, time.Hour)
		resp, err := w.asClient(t, w.request(t, long.ID))
		if err != nil {
			t.Fatal(err)
		}
		if claims := claimsOf(t, resp.GetToken()); claims.Expires.Sub(claims.IssuedAt) < 30*time.Second || claims.Actor != w.nightly.ID {
			t.Errorf("by a grant of an hour: %+v", claims)
		}
	}})
}

// One handoff, without the network: of a session's, and of a client's, which signs too.
func BenchmarkIssue(b *testing.B) {
	for name, ask := range map[string]func(*world, *handoffv1.IssueHandoffRequest) error{
		"user": func(w *world, req *handoffv1.IssueHandoffRequest) error {
			_, err := asUser(b, w, func(ctx context.Context) (any, error) { return w.IssueHandoff(ctx, req) })
			return err
		},
		"client": func(w *world, req *handoffv1.IssueHandoffRequest) error {
			_, err := w.asClient(b, req)
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, filepath.Join(b.TempDir(), "server1.db"), time.Now)
			req := w.request(b, "")
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := ask(w, req); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
