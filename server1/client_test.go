package server1

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// robot is an API client with its key.
type robot struct {
	name, id string
	key      *signkey.Key
}

// publicFile writes the public half of a key.
func (s *site) publicFile(t testing.TB, keys ...*signkey.Key) string {
	t.Helper()
	var public []handoff.Key
	for _, key := range keys {
		public = append(public, key.Key())
	}
	set, err := keyset.New(public...)
	if err != nil {
		t.Fatal(err)
	}
	text, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "client.jwks")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func newKey(t testing.TB) *signkey.Key {
	t.Helper()
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// addClient adds a client with the program's own command, and a key of its own.
func (s *site) addClient(t testing.TB, name string, roles ...string) robot {
	t.Helper()
	c := robot{name: name, key: newKey(t)}
	args := []string{"client", "add", "--database", s.database, "--name", name, "--key", s.publicFile(t, c.key)}
	for _, role := range roles {
		args = append(args, "--role", role)
	}
	status, stdout, stderr := s.try(args...)
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	rest, ok := strings.CutPrefix(stdout, "added "+name+": id ")
	if c.id, _, _ = strings.Cut(rest, ","); !ok || len(c.id) != 22 || !strings.Contains(stdout, c.key.Key().ID()) {
		t.Fatalf("it says %q", stdout)
	}
	return c
}

// sign returns a context with a new assertion.
func (c robot) sign(t testing.TB) context.Context {
	t.Helper()
	raw, err := assertion.Sign(t.Context(), c.key, assertion.Params{Client: c.id, Audience: issuerName})
	if err != nil {
		t.Fatal(err)
	}
	return with(t, "Bearer "+raw)
}

// dialAs connects as a client.
func (r *running) dialAs(t testing.TB, c robot) handoffv1.HandoffServiceClient {
	t.Helper()
	signs, err := handoffgrpc.ClientKey(c.key, assertion.Params{Client: c.id, Audience: issuerName})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(r.conn.Target(), r.secure(), grpc.WithPerRPCCredentials(signs))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return handoffv1.NewHandoffServiceClient(conn)
}

// A client hands off for itself, as its roles allow, and the audit says so.
func TestClientHandsOff(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	nightly, reader := s.addClient(t, "nightly", "payer"), s.addClient(t, "reader", "reader")
	r := s.start(t, s.publishing())
	a := r.audience(t)
	h, err := r.dialAs(t, nightly).IssueHandoff(t.Context(), pay(t))
	if err != nil {
		t.Fatal(err)
	}
	verified, err := a.verifier.Verify(t.Context(), h.GetToken())
	if err != nil {
		t.Fatal(err)
	}
	if claims := verified.Claims(); claims.Subject != nightly.id || claims.Session != "" || claims.Issuer != issuerName || claims.Method != payInvoice {
		t.Errorf("the token says %+v", claims)
	}
	row := column(t, s.open(t), `SELECT user_id || ' ' || method FROM audit WHERE event = 'handoff_issued' AND session IS NULL`)
	if len(row) != 1 || row[0] != nightly.id+" "+payInvoice {
		t.Errorf("the audit has %q", row)
	}
	if text := r.log.String(); !strings.Contains(text, `"subject":"`+nightly.id+`"`) {
		t.Errorf("the log has no line of it:\n%s", text)
	}
	_, err = r.dialAs(t, reader).IssueHandoff(t.Context(), pay(t))
	wantReason(t, "beyond its roles", err, handoff.ReasonPolicyDenied)
	for name, call := range map[string]func(ctx context.Context) error{
		"RevokeHandoff": func(ctx context.Context) error {
			_, err := r.handoffs().RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: h.GetHandoffId()})
			return err
		},
	} {
		wantReason(t, name+" takes a session", call(nightly.sign(t)), handoff.ReasonSessionInvalid)
	}
}

// K01: an assertion for another audience is refused, and so is each other hostile one,
// with one answer before its signature has verified.
func TestK01AnotherAudience(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	nightly := s.addClient(t, "nightly", "payer")
	stranger := robot{"stranger", nightly.id, newKey(t)}
	r := s.start(t, nil)
	offer := func(c robot, params assertion.Params) error {
		raw, err := assertion.Sign(t.Context(), c.key, params)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.handoffs().IssueHandoff(with(t, "Bearer "+raw), pay(t))
		return err
	}
	for _, audience := range []string{billing, issuerName + "/", issuerName + "/token", "https://other.example"} {
		err := offer(nightly, assertion.Params{Client: nightly.id, Audience: audience})
		wantReason(t, audience, err, handoff.ReasonClientInvalid)
		if !strings.Contains(status.Convert(err).Message(), "aud is not this issuer's name") {
			t.Errorf("who has the key is told %q", status.Convert(err).Message())
		}
	}
	wantReason(t, "another client's id", offer(nightly, assertion.Params{Client: handoff.NewID(), Audience: issuerName}), handoff.ReasonClientInvalid)
	wantReason(t, "an hour ago", offer(nightly, assertion.Params{Client: nightly.id, Audience: issuerName, Now: func() time.Time { return time.Now().Add(-time.Hour) }}), handoff.ReasonClientInvalid)
	uniform := offer(stranger, assertion.Params{Client: nightly.id, Audience: issuerName})
	wantReason(t, "a key that nobody has", uniform, handoff.ReasonClientInvalid)
	for _, raw := range []string{".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", strings.Repeat("a.", 2000)} {
		_, err := r.handoffs().IssueHandoff(with(t, "Bearer "+raw), pay(t))
		if status.Convert(err).Message() != status.Convert(uniform).Message() || status.Code(err) != codes.Unauthenticated {
			t.Errorf("%.10q: %v, want %v", raw, err, uniform)
		}
	}
	if n := column(t, s.open(t), `SELECT COUNT(*) FROM audit WHERE event = 'handoff_issued'`)[0]; n != "0" {
		t.Errorf("%s handoffs were issued", n)
	}
}

// K02: one assertion is good for one handoff, at all processes of the issuer together, and
// a call that is refused for another reason does not spend it.
func TestK02OnceAcrossReplicas(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	s.database = servingtest.Postgres(t)
	nightly := s.addClient(t, "nightly", "payer")
	var both [2]*running
	for i := range both {
		both[i] = s.start(t, s.quick("lifetime", "30s", "max-lifetime", "300s"))
	}
	oncePerAssertion(t, s, nightly, both[:])
}

func TestK02OnceOnSQLite(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	nightly := s.addClient(t, "nightly", "payer")
	oncePerAssertion(t, s, nightly, []*running{s.start(t, nil)})
}

func oncePerAssertion(t *testing.T, s *site, c robot, processes []*running) {
	t.Helper()
	for range 10 {
		ctx := c.sign(t)
		denied := pay(t)
		denied.Method = getInvoice
		_, err := processes[0].handoffs().IssueHandoff(ctx, denied)
		wantReason(t, "another method's request", err, handoff.ReasonArgumentInvalid)
		var issued, refused, late atomic.Int32
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
					_, err := processes[i%len(processes)].handoffs().IssueHandoff(ctx, pay(t))
					switch {
					case err == nil:
						issued.Add(1)
					case handoffgrpc.ReasonOf(err) == handoff.ReasonClientInvalid && strings.Contains(err.Error(), "used before"):
						refused.Add(1)
					case handoffgrpc.ReasonOf(err) == handoff.ReasonIssuerUnavailable && time.Since(start) < patience:
						late.Add(1) // the machine is: it may have been spent, for an answer that was lost
						continue
					default:
						t.Error(err)
					}
					return
				}
			})
		}
		all.Wait()
		if n := issued.Load(); n > 1 || n == 0 && late.Load() == 0 || n+refused.Load() != 8 {
			t.Errorf("%d were issued, %d refused; the database was late %d times", n, refused.Load(), late.Load())
		}
	}
}

// K02: what was spent stays so through kill -9.
func TestK02Killed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	nightly := s.addClient(t, "nightly", "payer")
	settings := s.settings()
	for range 3 {
		p := spawn(t, settings, true)
		contexts := []context.Context{nightly.sign(t), nightly.sign(t), nightly.sign(t)}
		handoffs := handoffv1.NewHandoffServiceClient(s.dialFast(t, p.address))
		for _, ctx := range contexts {
			if _, err := handoffs.IssueHandoff(ctx, pay(t), grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
		}
		p.kill()
		p = spawn(t, settings, true)
		handoffs = handoffv1.NewHandoffServiceClient(s.dialFast(t, p.address))
		for _, ctx := range contexts {
			_, err := handoffs.IssueHandoff(ctx, pay(t), grpc.WaitForReady(true))
			wantReason(t, "after kill -9", err, handoff.ReasonClientInvalid)
		}
		p.kill()
	}
}

// K03: a key has one owner and one use, wherever it is put.
func TestK03KeysInTheWrongPlace(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	nightly := s.addClient(t, "nightly", "payer")
	r := s.start(t, s.publishing())
	add := func(name string, keys ...*signkey.Key) string {
		status, _, stderr := s.try("client", "add", "--database", s.database, "--name", name, "--key", s.publicFile(t, keys...))
		if status == 0 {
			return ""
		}
		return stderr
	}
	for what, key := range map[string]*signkey.Key{"another client's": nightly.key, "the one that signs handoffs": s.key} {
		if stderr := add("other", key); !strings.Contains(stderr, "--key") {
			t.Errorf("the key is %s: %q", what, stderr)
		}
	}
	if stderr := add("other", newKey(t), newKey(t), newKey(t)); !strings.Contains(stderr, "2 at most") {
		t.Errorf("three keys: %q", stderr)
	}
	for _, private := range []string{s.path("shop.key")} {
		if status, _, stderr := s.try("client", "add", "--database", s.database, "--name", "other", "--key", private); status == 0 || !strings.Contains(stderr, "private") {
			t.Errorf("a private key: %q", stderr)
		}
	}
	// The trust key's public half is not in the database: the running server refuses it.
	trusted := robot{"trusted", "", s.trustKey}
	if stderr := add("trusted", s.trustKey); stderr != "" {
		t.Fatal(stderr)
	}
	for _, line := range strings.Split(s.command(t, "client", "list"), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "trusted" {
			trusted.id = fields[1]
		}
	}
	_, err := r.handoffs().IssueHandoff(trusted.sign(t), pay(t))
	wantReason(t, "the trust key as a client's", err, handoff.ReasonClientInvalid)
	// A client's key signs no handoff, and a handoff is no assertion.
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: issuerName, Key: nightly.key})
	if err != nil {
		t.Fatal(err)
	}
	verified := s.verify(t, r.issueAs(t, nightly))
	claims := verified.Claims()
	forged, _, err := issuer.Issue(t.Context(), handoff.IssueParams{
		Audience: billing, Subject: nightly.id, Operation: handoff.Operation{Method: payInvoice, Bound: claims.Fields},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.audience(t).wantNow(t, "signed with a client's key", forged, handoff.ReasonTokenInvalid)
	_, err = r.handoffs().IssueHandoff(with(t, "Bearer "+forged), pay(t))
	wantReason(t, "a handoff token as an assertion", err, handoff.ReasonClientInvalid)
	// And it does not start again with a key that is a client's.
	settings := s.settings()
	settings["trust-key"] = s.path("trust.key")
	if status, _, stderr := s.try(arguments("serve", settings)...); status != 2 || !strings.Contains(stderr, "--trust-key") {
		t.Errorf("exit status %d: %q", status, stderr)
	}
}

// issueAs returns a token that a client has asked for.
func (r *running) issueAs(t testing.TB, c robot) string {
	t.Helper()
	h, err := r.dialAs(t, c).IssueHandoff(t.Context(), pay(t))
	if err != nil {
		t.Fatal(err)
	}
	return h.GetToken()
}

// Disabling a client, and removing one of its two keys, ends what it was issued within a
// second; what it is issued afterwards stands.
func TestClientIsTakenBack(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	nightly := s.addClient(t, "nightly", "payer")
	r := s.start(t, s.publishing())
	a := r.audience(t)
	next := robot{nightly.name, nightly.id, newKey(t)}
	s.command(t, "client", "key", "add", "nightly", "--key="+s.publicFile(t, next.key))
	if status, _, stderr := s.try("client", "key", "add", "--database", s.database, "nightly", "--key", s.publicFile(t, newKey(t))); status == 0 || !strings.Contains(stderr, "at most") {
		t.Errorf("a third key: %q", stderr)
	}
	tokens := []string{r.issueAs(t, nightly), r.issueAs(t, next)}
	for _, raw := range tokens {
		a.wantNow(t, "before", raw, 0)
	}
	s.command(t, "client", "key", "remove", "nightly", nightly.key.Key().ID())
	for _, raw := range tokens {
		if took := a.wantSoon(t, "with a key less", raw, handoff.ReasonTokenRevoked); took > time.Second {
			t.Logf("it took %s", took)
		}
	}
	_, err := r.handoffs().IssueHandoff(nightly.sign(t), pay(t))
	wantReason(t, "with the removed key", err, handoff.ReasonClientInvalid)
	left := r.issueAs(t, next)
	a.wantNow(t, "with the key that is left", left, 0)
	s.command(t, "client", "disable", "nightly")
	a.wantSoon(t, "disabled", left, handoff.ReasonTokenRevoked)
	_, err = r.handoffs().IssueHandoff(next.sign(t), pay(t))
	wantReason(t, "disabled", err, handoff.ReasonClientInvalid)
	s.command(t, "client", "enable", "nightly")
	a.wantNow(t, "enabled again", r.issueAs(t, next), 0)
	a.wantNow(t, "what was taken back", left, handoff.ReasonTokenRevoked)
	events := strings.Join(column(t, s.open(t), `SELECT event FROM audit WHERE event LIKE 'client%' ORDER BY id`), " ")
	if want := "client_added client_key_added client_key_removed client_disabled client_enabled"; events != want {
		t.Errorf("the audit has %q, want %q", events, want)
	}
}

// Users and clients are not taken for each other by their names.
func TestClientsAreNoUsers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	s.addClient(t, "nightly", "payer")
	for _, args := range [][]string{
		{"client", "add", "--name", "alice", "--key", s.publicFile(t, newKey(t))},
		{"client", "disable", "alice"},
		{"client", "enable", "alice"},
		{"client", "key", "remove", "alice", "x"},
		{"client", "key", "add", "bob", "--key", s.publicFile(t, newKey(t))},
		{"user", "disable", "nightly"},
		{"client", "disable", "bob"},
	} {
		args = append(args, "--database", s.database)
		if status, _, stderr := s.try(args...); status != 1 || stderr == "" {
			t.Errorf("%q: exit status %d: %q", args, status, stderr)
		}
	}
	if users := s.command(t, "user", "list"); strings.Contains(users, "nightly") || !strings.Contains(users, "alice") {
		t.Errorf("the users are\n%s", users)
	}
	if clients := s.command(t, "client", "list"); strings.Contains(clients, "alice") || !strings.Contains(clients, "nightly") {
		t.Errorf("the clients are\n%s", clients)
	}
	for _, args := range [][]string{{"client", "add", "--name", "A b", "--key", "x"}, {"client", "add", "--name", "x", "--key", "nowhere"}, {"client", "add", "--name", "x", "--key", "x", "--role", "A"}} {
		args = append(args, "--database", s.database)
		if status, _, stderr := s.try(args...); status != 2 || !strings.Contains(stderr, "--") {
			t.Errorf("%q: exit status %d: %q", args, status, stderr)
		}
	}
}

// I04: a client's handoffs are bounded as a user's are, and no other's count.
func TestI04ClientQuota(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	nightly, other := s.addClient(t, "nightly", "payer"), s.addClient(t, "other", "payer")
	r := s.start(t, map[string]string{"handoff-quota": "2"})
	client := r.dialAs(t, nightly)
	for range 2 {
		if _, err := client.IssueHandoff(t.Context(), pay(t)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := client.IssueHandoff(t.Context(), pay(t))
	wantReason(t, "one too many", err, handoff.ReasonLimitExceeded)
	r.issueAs(t, other)
}
