package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// publisher is SERVER1's side of the trust list: a real publisher over a store in
// memory.
type publisher struct {
	*trust.Publisher
	terms trust.Terms
	key   *signkey.Key // signs handoffs, as long as it is listed
	trust *signkey.Key
	file  string

	mu    sync.Mutex
	state trust.State
}

func (p *publisher) State(context.Context) (trust.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return trust.State{Keys: slices.Clone(p.state.Keys), Revoked: slices.Clone(p.state.Revoked)}, nil
}

// change changes the store and publishes, as an acknowledgement would demand.
func (p *publisher) change(t *testing.T, do func(*trust.State)) {
	t.Helper()
	p.mu.Lock()
	do(&p.state)
	p.mu.Unlock()
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (p *publisher) revoke(t *testing.T, entry trust.Entry, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	p.change(t, func(s *trust.State) { s.Revoked = append(s.Revoked, entry) })
}

func newKey(t *testing.T) *signkey.Key {
	t.Helper()
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// unhurried is an age that no list reaches in a test, however busy the machine.
const unhurried = 10 * time.Minute

// newPublisher returns a publisher that has published once.
func newPublisher(t *testing.T) *publisher {
	t.Helper()
	p := &publisher{terms: trust.Terms{Issuer: testIssuer, ListLifetime: unhurried}, key: newKey(t), trust: newKey(t), file: filepath.Join(t.TempDir(), "trust.jwt")}
	p.state.Keys = []handoff.Key{p.key.Key()}
	var err error
	p.Publisher, err = trust.NewPublisher(trust.PublisherConfig{Terms: p.terms, Key: p.trust, Source: p, File: p.file})
	if err != nil {
		t.Fatal(err)
	}
	p.change(t, func(*trust.State) {})
	return p
}

// run publishes until the returned function is called.
func (p *publisher) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// keyFile writes the public half of a key and returns its file.
func keyFile(t *testing.T, key *signkey.Key) string {
	t.Helper()
	set, err := keyset.New(key.Key())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "key.jwks"), text)
}

// followed returns settings for a trust list, in the place of "keys".
func followed(t *testing.T) settings {
	t.Helper()
	return settings{"trust-key": keyFile(t, newKey(t)), "trust": filepath.Join(t.TempDir(), "trust.jwt")}
}

// serveGRPC serves the list until stop, and returns its URL.
func (p *publisher) serveGRPC(t *testing.T, certificate tls.Certificate, address string) (url string, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	p.Register(server)
	go server.Serve(listener)
	return "grpc://" + listener.Addr().String(), server.Stop
}

// serveHTTPS serves the list until the test ends, and returns its URL.
func serveHTTPS(t *testing.T, certificate tls.Certificate, handler http.Handler) (url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL + trust.ListPath
}

// follower starts a SERVER2 that follows the list in one of three ways.
func follower(t *testing.T, p *publisher, way string, change func(settings)) *running {
	t.Helper()
	r := startWith(t, func(s settings) {
		delete(s, "keys")
		maps.Copy(s, settings{"trust-key": keyFile(t, p.trust), "trust": p.file, "max-staleness": unhurried.String()})
		if way != "file" {
			certificate, err := tls.LoadX509KeyPair(s["tls-cert"], s["tls-key"])
			if err != nil {
				t.Fatal(err)
			}
			s["trust-ca"] = s["tls-cert"]
			if way == "https" {
				s["trust"] = serveHTTPS(t, certificate, p.Handler())
			} else {
				var stop func()
				s["trust"], stop = p.serveGRPC(t, certificate, "127.0.0.1:0")
				t.Cleanup(stop)
			}
		}
		if change != nil {
			change(s)
		}
	})
	r.issuer = newIssuer(t, p.key, nil)
	return r
}

var ways = []string{"file", "https", "grpc"}

func (r *running) get(t *testing.T, raw string) error {
	t.Helper()
	_, err := r.client.GetInvoice(t.Context(), &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, handoffgrpc.Token(raw))
	return err
}

func (r *running) getToken(t *testing.T, change func(*handoff.IssueParams)) string {
	t.Helper()
	return token(t, r.issuer, getMethod, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, change)
}

// becomes waits for an answer to be the wanted one.
func becomes(t *testing.T, what string, want handoff.Reason, ask func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		got := handoffgrpc.ReasonOf(ask())
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: still %v after %s, want %v", what, got, patience, want)
			return
		}
	}
}

// logged waits for the log to say something.
func (r *running) logged(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(r.log.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say %s after %s:\n%s", text, patience, r.log)
		}
	}
}

// TestF02: a token, a session and a user are taken back, over each of the ways,
// and nothing else is.
func TestF02(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			defer p.run()()
			r := follower(t, p, way, nil)
			operation, err := rule.Operation(getMethod, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"})
			if err != nil {
				t.Fatal(err)
			}
			session := handoff.NewID()
			for what, c := range map[string]struct {
				subject, session string
				entry            func(c *handoff.Claims) (trust.Entry, error)
			}{
				"a token":   {alice, "", func(c *handoff.Claims) (trust.Entry, error) { return p.terms.Token(c.ID, c.Expires) }},
				"a session": {alice, session, func(*handoff.Claims) (trust.Entry, error) { return p.terms.Session(session, time.Now()) }},
				"a user":    {"u-bob", "", func(*handoff.Claims) (trust.Entry, error) { return p.terms.Subject("u-bob", time.Now()) }},
			} {
				raw, claims, err := r.issuer.Issue(t.Context(), handoff.IssueParams{
					Audience: testAudience, Subject: c.subject, Session: c.session, Operation: operation,
				})
				if err != nil {
					t.Fatal(err)
				}
				if reason := handoffgrpc.ReasonOf(r.get(t, raw)); reason != 0 {
					t.Errorf("%s: %v before it is taken back", what, reason)
				}
				entry, err := c.entry(claims)
				p.revoke(t, entry, err)
				becomes(t, what, handoff.ReasonTokenRevoked, func() error { return r.get(t, raw) })
			}
			if err := r.get(t, r.getToken(t, nil)); err != nil {
				t.Error("a token that was not taken back:", err)
			}
		})
	}
}

// An export that is open when its token is taken back ends, even if much is left of it
// and however the list comes.
func TestRevokedWhileOpen(t *testing.T) {
	t.Parallel()
	const payments = 500
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			defer p.run()()
			r := follower(t, p, way, func(s settings) { fill(t, s["database"], payments) })
			req := &server2v1.ExportPaymentsRequest{}
			session := handoff.NewID()
			open, err := r.client.ExportPayments(t.Context(), req, handoffgrpc.Token(
				token(t, r.issuer, exportMethod, req, func(params *handoff.IssueParams) { params.Session = session })))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := open.Recv(); err != nil {
				t.Fatal(err)
			}
			other := r.getToken(t, func(params *handoff.IssueParams) { params.Session = session })
			entry, err := p.terms.Session(session, time.Now())
			p.revoke(t, entry, err)
			becomes(t, "its session", handoff.ReasonTokenRevoked, func() error { return r.get(t, other) })
			// The rest of the export did not fit into the client's window.
			received := 1
			for err == nil {
				_, err = open.Recv()
				received++
			}
			wantReason(t, fmt.Sprintf("after %d of %d payments", received, payments), err, handoff.ReasonTokenRevoked)
			r.logged(t, `"outcome":"ended"`)
		})
	}
}

// TestF03: with SERVER1 gone, SERVER2 goes on until its list is too old, refuses
// all and says so to health, and is back when SERVER1 is. The log has a line for
// each fault, not one for each attempt.
func TestF03(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	stopPublishing := p.run()
	defer func() { stopPublishing() }()
	var certificate tls.Certificate
	var address string
	var stopServing func()
	r := follower(t, p, "file", func(s settings) {
		var err error
		if certificate, err = tls.LoadX509KeyPair(s["tls-cert"], s["tls-key"]); err != nil {
			t.Fatal(err)
		}
		s["trust"], stopServing = p.serveGRPC(t, certificate, servingtest.HoldPort(t).Address())
		s["trust-ca"], s["max-staleness"] = s["tls-cert"], "5s"
		address = strings.TrimPrefix(s["trust"], "grpc://")
	})
	ask := func() error { return r.get(t, r.getToken(t, nil)) }
	stopServing()
	if err := ask(); err != nil {
		t.Error("SERVER1 has only just gone:", err)
	}
	becomes(t, "SERVER1 gone", handoff.ReasonTrustStale, ask)
	r.health(t, healthpb.HealthCheckResponse_NOT_SERVING)
	time.Sleep(time.Second) // attempts that fail alike

	_, stopServing = p.serveGRPC(t, certificate, address)
	defer func() { stopServing() }()
	becomes(t, "SERVER1 back", 0, ask)
	r.health(t, healthpb.HealthCheckResponse_SERVING)
	log := r.log.String()
	for line, want := range map[string]int{
		`"msg":"the trust list is not renewed","fault":"feed"`:  1,
		`"msg":"the trust list is not renewed","fault":"stale"`: 1,
		`"msg":"the trust list is in force"`:                    2,
		`"msg":"not ready","condition":"trust list"`:            1,
	} {
		if got := strings.Count(log, line); got != want && !(got == 2 && strings.Contains(line, "not ready")) { // at the start, too
			t.Errorf("%d lines with %s, want %d:\n%s", got, line, want, log)
		}
	}
}

// A server whose list has never been there refuses, says so to health, and serves
// as soon as the list comes.
func TestListComesLater(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	s, _ := goodSettings(t)
	delete(s, "keys")
	later := filepath.Join(t.TempDir(), "later.jwt")
	maps.Copy(s, settings{"trust-key": keyFile(t, p.trust), "trust": later, "max-staleness": unhurried.String()})
	r := start(t, s.args())
	r.issuer = newIssuer(t, p.key, nil)
	r.dial(t, s["tls-cert"])
	r.health(t, healthpb.HealthCheckResponse_NOT_SERVING)
	wantReason(t, "no list yet", r.get(t, r.getToken(t, nil)), handoff.ReasonTrustStale)

	list, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, later+".next", list)
	if err := os.Rename(later+".next", later); err != nil {
		t.Fatal(err)
	}
	r.health(t, healthpb.HealthCheckResponse_SERVING)
}

// A list that cannot come in force is named in one line, with the setting to look at.
func TestListThatNeverComes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*publisher, settings)
		says   []string
	}{
		"no file": {
			func(_ *publisher, s settings) { s["trust"] = filepath.Join(t.TempDir(), "none.jwt") },
			[]string{"none.jwt", "--trust names a file"},
		},
		"another key": {
			func(_ *publisher, s settings) { s["trust-key"] = keyFile(t, newKey(t)) },
			[]string{`"check":"key.unknown"`, "not signed by a trust key", "--trust-key"},
		},
		"unknown CA by gRPC": {
			func(p *publisher, s settings) {
				certificate := loadCertificate(t, s)
				var stop func()
				s["trust"], stop = p.serveGRPC(t, certificate, "127.0.0.1:0")
				t.Cleanup(stop)
			},
			[]string{"x509: certificate signed by unknown authority", "--trust-ca"},
		},
		"unknown CA by HTTPS": {
			func(p *publisher, s settings) {
				s["trust"] = serveHTTPS(t, loadCertificate(t, s), p.Handler()) + "?key=c2VjcmV0"
			},
			[]string{"x509: certificate signed by unknown authority", "--trust-ca"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			s, _ := goodSettings(t)
			delete(s, "keys")
			maps.Copy(s, settings{"trust-key": keyFile(t, p.trust), "trust": p.file})
			c.change(p, s)
			r := start(t, s.args())
			var line string
			for deadline := time.Now().Add(patience); line == "" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				for l := range strings.Lines(r.log.String()) {
					if strings.Contains(l, `"msg":"there is no trust list yet`) {
						line = l
					}
				}
			}
			for _, says := range c.says {
				if !strings.Contains(line, says) {
					t.Errorf("the line does not say %s: %s", says, line)
				}
			}
			if strings.Contains(line, `\\`) || strings.Contains(line, `\"`) || strings.Contains(line, "c2VjcmV0") {
				t.Errorf("it is escaped, or tells the URL: %s", line)
			}
		})
	}
}

func loadCertificate(t *testing.T, s settings) tls.Certificate {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(s["tls-cert"], s["tls-key"])
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// TestF07: SERVER1's keys change, one is tainted, and the trust key itself changes
// to the second one that is pinned: SERVER2 is not restarted.
func TestF07(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	next, nextTrust := newKey(t), newKey(t)
	r := follower(t, p, "file", func(s settings) { s["trust-key"] += "," + keyFile(t, nextTrust) })
	before := r.issuer
	after := newIssuer(t, next, nil)
	by := func(issuer *handoff.Issuer) func() error {
		return func() error {
			return r.get(t, token(t, issuer, getMethod, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, nil))
		}
	}
	wantReason(t, "the next key, before it is listed", by(after)(), handoff.ReasonTokenInvalid)
	p.change(t, func(s *trust.State) { s.Keys = append(s.Keys, next.Key()) })
	becomes(t, "the next key", 0, by(after))
	wantReason(t, "the key before, still listed", by(before)(), 0)
	p.change(t, func(s *trust.State) { s.Keys = []handoff.Key{next.Key()} })
	becomes(t, "the tainted key", handoff.ReasonTokenInvalid, by(before))

	changed, err := trust.NewPublisher(trust.PublisherConfig{Terms: p.terms, Key: nextTrust, Source: p, File: p.file})
	if err != nil {
		t.Fatal(err)
	}
	p.Publisher = changed
	p.change(t, func(s *trust.State) { s.Keys = []handoff.Key{p.key.Key()} })
	becomes(t, "listed by the next trust key", 0, by(before))
	becomes(t, "not listed any more", handoff.ReasonTokenInvalid, by(after))
}

// TestF08: keys that tokens name do not change how often the list is asked for.
func TestF08(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	defer p.run()()
	var asked atomic.Int64
	r := follower(t, p, "file", func(s settings) {
		certificate, err := tls.LoadX509KeyPair(s["tls-cert"], s["tls-key"])
		if err != nil {
			t.Fatal(err)
		}
		handler := p.Handler()
		s["trust-ca"] = s["tls-cert"]
		s["trust"] = serveHTTPS(t, certificate, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			handler.ServeHTTP(w, r)
		}))
	})
	stranger := newIssuer(t, newKey(t), nil)
	start, before := time.Now(), asked.Load()
	const tokens = 300
	for range tokens {
		raw := token(t, stranger, getMethod, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, nil)
		wantReason(t, "a stranger's key", r.get(t, raw), handoff.ReasonTokenInvalid)
	}
	most := int64(time.Since(start)/poll) + 2
	if got := asked.Load() - before; got > most {
		t.Errorf("the list was asked for %d times, and %d without the tokens", got, most)
	}
}

// I08: after kill -9 an older list that has not expired is refused, wherever
// redemptions are remembered, and what was taken back stays so. A SERVER2 whose
// memory is all that it has says so when it starts.
func TestI08AnOlderListAfterKill9(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]func(*testing.T, settings){
		"journal":        func(t *testing.T, s settings) { s["replay"] = newJournal(t, "5s") },
		"Redis":          func(t *testing.T, s settings) { s.onRedis(servingtest.StartRedis(t).URL()) },
		"state file":     func(t *testing.T, s settings) { s["trust-state"] = filepath.Join(t.TempDir(), "trust-state") },
		"nowhere at all": func(*testing.T, settings) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			s, _ := goodSettings(t)
			delete(s, "keys")
			maps.Copy(s, settings{"trust-key": keyFile(t, p.trust), "trust": p.file, "max-staleness": unhurried.String()})
			keep(t, s)
			older, err := os.ReadFile(p.file)
			if err != nil {
				t.Fatal(err)
			}
			r, kill := spawn(t, s.args())
			r.connect(t, s["tls-cert"])
			r.issuer = newIssuer(t, p.key, nil)
			operation, err := rule.Operation(getMethod, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"})
			if err != nil {
				t.Fatal(err)
			}
			raw, claims, err := r.issuer.Issue(t.Context(), handoff.IssueParams{Audience: testAudience, Subject: alice, Operation: operation})
			if err != nil {
				t.Fatal(err)
			}
			becomes(t, "before", 0, func() error { return r.get(t, raw) })
			entry, err := p.terms.Token(claims.ID, claims.Expires)
			p.revoke(t, entry, err)
			becomes(t, "taken back", handoff.ReasonTokenRevoked, func() error { return r.get(t, raw) })
			newer, err := os.ReadFile(p.file)
			if err != nil {
				t.Fatal(err)
			}

			kill()
			write(t, p.file, older)
			r, kill = spawn(t, s.args())
			defer kill()
			r.dial(t, s["tls-cert"])
			if warned := strings.Contains(r.log.String(), "--trust-state"); warned != (name == "nowhere at all") {
				t.Errorf("the log warns: %t: %s", warned, r.log)
			}
			if name == "nowhere at all" {
				return
			}
			for until := time.Now().Add(time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
				if reason := handoffgrpc.ReasonOf(r.get(t, raw)); reason != handoff.ReasonTrustStale {
					t.Fatalf("with the older list: %v", reason)
				}
			}
			if !strings.Contains(r.log.String(), `"fault":"rolled_back"`) {
				t.Errorf("the log does not say why: %s", r.log)
			}
			write(t, p.file, newer)
			becomes(t, "with the newer list", handoff.ReasonTokenRevoked, func() error { return r.get(t, raw) })
		})
	}
}

// The newest list wins of several places, and one that is gone does not matter.
func TestSeveralPlacesToFollow(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	defer p.run()()
	dead := filepath.Join(t.TempDir(), "missing.jwt")
	stale := filepath.Join(t.TempDir(), "stale.jwt")
	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, stale, text)
	const oldest = 5 * time.Second
	r := follower(t, p, "file", func(s settings) {
		s["trust"], s["max-staleness"] = dead+","+stale+","+p.file, oldest.String()
	})
	raw := r.getToken(t, nil)
	for until := time.Now().Add(oldest + time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if err := r.get(t, raw); err != nil {
			t.Fatal(err)
		}
	}
}
