package server1

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

func (r *running) grants() handoffv1.GrantServiceClient {
	return handoffv1.NewGrantServiceClient(r.conn)
}

// grantPay is a request that lets a client pay for its user, for an hour.
func grantPay(c robot) *handoffv1.CreateGrantRequest {
	return &handoffv1.CreateGrantRequest{
		ClientId: c.id, Audience: billing, Methods: []string{payInvoice}, ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
	}
}

// allow has the session's user let a client pay.
func (r *running) allow(t testing.TB, user context.Context, c robot) *handoffv1.Grant {
	t.Helper()
	made, err := r.grants().CreateGrant(user, grantPay(c))
	if err != nil {
		t.Fatal(err)
	}
	return made.GetGrant()
}

// payBy asks as a client for a payment by a grant.
func (r *running) payBy(t testing.TB, c robot, grantID string) (*handoffv1.IssueHandoffResponse, error) {
	t.Helper()
	req := pay(t)
	req.GrantId = grantID
	return r.handoffs().IssueHandoff(c.sign(t), req)
}

func (r *running) mustPayBy(t testing.TB, c robot, grantID string) string {
	t.Helper()
	h, err := r.payBy(t, c, grantID)
	if err != nil {
		t.Fatal(err)
	}
	return h.GetToken()
}

// A client acts for a user who has allowed it: the token and the audit name both.
func TestClientActsForUser(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	nightly := s.addClient(t, "nightly") // without a role: the user's count
	r := s.start(t, s.publishing())
	a := r.audience(t)
	alice, _ := r.signIn(t, "alice")
	grant := r.allow(t, alice, nightly)
	if grant.GetClientName() != "nightly" || grant.GetAudience() != billing || !slices.Equal(grant.GetMethods(), []string{payInvoice}) || len(grant.GetGrantId()) != 22 {
		t.Errorf("the grant is %v", grant)
	}
	verified, err := a.verifier.Verify(t.Context(), r.mustPayBy(t, nightly, grant.GetGrantId()))
	if err != nil {
		t.Fatal(err)
	}
	user, err := r.sessions().GetSession(alice, &server1v1.GetSessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	claims := verified.Claims()
	if claims.Subject != user.GetDetails().GetUserId() || claims.Actor != nightly.id || claims.Session == "" || claims.Session == grant.GetGrantId() {
		t.Errorf("the token says %+v", claims)
	}
	row := column(t, s.open(t), `SELECT user_id || ' ' || client_id || ' ' || session FROM audit WHERE event = 'handoff_issued'`)
	if len(row) != 1 || row[0] != claims.Subject+" "+nightly.id+" "+claims.Session {
		t.Errorf("the audit has %q", row)
	}
	if text := r.log.String(); !strings.Contains(text, `"actor":"`+nightly.id+`"`) {
		t.Errorf("the log does not name the client:\n%s", text)
	}
	listed, err := r.grants().ListGrants(alice, &handoffv1.ListGrantsRequest{})
	if err != nil || len(listed.GetGrants()) != 1 || listed.GetGrants()[0].GetGrantId() != grant.GetGrantId() {
		t.Errorf("the list is %v, %v", listed, err)
	}
}

// K04: without a grant, beyond one, by another client's, by one of nobody, and from a
// session, a client gets nothing in a user's name.
func TestK04BeyondTheGrant(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "bob")
	nightly, other := s.addClient(t, "nightly", "payer"), s.addClient(t, "other", "payer")
	r := s.start(t, nil)
	alice, _ := r.signIn(t, "alice")
	bob, _ := r.signIn(t, "bob")
	grant := r.allow(t, alice, nightly)
	for name, id := range map[string]string{"nobody's": handoff.NewID(), "no id": "x"} {
		_, err := r.payBy(t, nightly, id)
		wantReason(t, name, err, handoff.ReasonArgumentInvalid)
	}
	_, err := r.payBy(t, other, grant.GetGrantId())
	wantReason(t, "another client's", err, handoff.ReasonArgumentInvalid)
	byHand := pay(t)
	byHand.GrantId = grant.GetGrantId()
	_, err = r.handoffs().IssueHandoff(alice, byHand)
	wantReason(t, "from a session", err, handoff.ReasonArgumentInvalid)
	look := &handoffv1.IssueHandoffRequest{Audience: billing, Method: getInvoice, Request: pack(t, payment()), GrantId: grant.GetGrantId()}
	_, err = r.handoffs().IssueHandoff(nightly.sign(t), look)
	wantReason(t, "another method", err, handoff.ReasonPolicyDenied)
	_, err = r.grants().CreateGrant(bob, grantPay(nightly))
	wantReason(t, "what the user may not do", err, handoff.ReasonPolicyDenied)
	_, err = r.grants().DeleteGrant(bob, &handoffv1.DeleteGrantRequest{GrantId: grant.GetGrantId()})
	wantReason(t, "withdrawing another user's", err, handoff.ReasonArgumentInvalid)
	if listed, err := r.grants().ListGrants(bob, &handoffv1.ListGrantsRequest{}); err != nil || len(listed.GetGrants()) != 0 {
		t.Errorf("bob sees %v, %v", listed, err)
	}
	_, err = r.grants().CreateGrant(nightly.sign(t), grantPay(nightly))
	wantReason(t, "a client that allows itself", err, handoff.ReasonSessionInvalid)
	for name, change := range map[string]func(*handoffv1.CreateGrantRequest){
		"no client":           func(g *handoffv1.CreateGrantRequest) { g.ClientId = "" },
		"a client of nobody":  func(g *handoffv1.CreateGrantRequest) { g.ClientId = handoff.NewID() },
		"no audience":         func(g *handoffv1.CreateGrantRequest) { g.Audience = "" },
		"no method":           func(g *handoffv1.CreateGrantRequest) { g.Methods = nil },
		"an unknown method":   func(g *handoffv1.CreateGrantRequest) { g.Methods = append(g.Methods, "/a.B/C") },
		"no time":             func(g *handoffv1.CreateGrantRequest) { g.ExpireTime = nil },
		"a time that is past": func(g *handoffv1.CreateGrantRequest) { g.ExpireTime = timestamppb.New(time.Now().Add(-time.Second)) },
		"under a minute": func(g *handoffv1.CreateGrantRequest) {
			g.ExpireTime = timestamppb.New(time.Now().Add(59 * time.Second))
		},
		"a year": func(g *handoffv1.CreateGrantRequest) { g.ExpireTime = timestamppb.New(time.Now().AddDate(1, 0, 0)) },
	} {
		req := grantPay(nightly)
		change(req)
		_, err := r.grants().CreateGrant(alice, req)
		wantReason(t, name, err, handoff.ReasonArgumentInvalid)
	}
}

// K05: no grant is made for a method whose rule takes no actors.
func TestK05NoGrantWithoutActors(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	nightly := s.addClient(t, "nightly")
	r := s.start(t, map[string]string{"max-grants": "2"})
	alice, _ := r.signIn(t, "alice")
	req := grantPay(nightly)
	req.Methods = []string{payInvoice, getInvoice}
	_, err := r.grants().CreateGrant(alice, req)
	wantReason(t, "a method without actors", err, handoff.ReasonArgumentInvalid)
	for range 2 {
		r.allow(t, alice, nightly)
	}
	_, err = r.grants().CreateGrant(alice, grantPay(nightly))
	wantReason(t, "one too many", err, handoff.ReasonLimitExceeded)
}

// I04, K04: who makes and withdraws grants in a loop is told to wait, and leaves few rows;
// nobody else waits, and signing out everywhere ends them at any time.
func TestI04GrantsInALoop(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "bob", "payer")
	nightly := s.addClient(t, "nightly")
	r := s.start(t, map[string]string{"max-grants": "3"})
	alice, _ := r.signIn(t, "alice")
	bob, _ := r.signIn(t, "bob")
	remove := func(user context.Context, id string) error {
		_, err := r.grants().DeleteGrant(user, &handoffv1.DeleteGrantRequest{GrantId: id})
		return err
	}
	began := time.Now()
	for range 3 {
		if err := remove(alice, r.allow(t, alice, nightly).GetGrantId()); err != nil {
			t.Fatal(err)
		}
	}
	for range 17 { // what is misused can be withdrawn beyond what can be made: 20 times a minute
		wantReason(t, "withdrawing what is none", remove(alice, handoff.NewID()), handoff.ReasonArgumentInvalid)
	}
	before := column(t, s.open(t), `SELECT COUNT(*) FROM audit`)[0]
	let := 0 // through, of those that withdraw one more
	for range 50 {
		if time.Since(began) > 15*time.Second { // a busy machine: 20 s after the first she may make another
			break
		}
		_, err := r.grants().CreateGrant(alice, grantPay(nightly))
		wantReason(t, "making one more", err, handoff.ReasonLimitExceeded)
		if wait := retryOf(err); wait <= 0 || wait > time.Minute/3 {
			t.Errorf("it is to be tried again in %s", wait)
		}
		err = remove(alice, handoff.NewID())
		if handoffgrpc.ReasonOf(err) == handoff.ReasonArgumentInvalid {
			let++
			continue
		}
		wantReason(t, "withdrawing one more", err, handoff.ReasonLimitExceeded)
	}
	if most := int(time.Since(began) / (3 * time.Second)); let > most {
		t.Errorf("%d more are let through in %s, want %d at most", let, time.Since(began), most)
	}
	if after := column(t, s.open(t), `SELECT COUNT(*) FROM audit`)[0]; after != before {
		t.Errorf("the audit has %s rows, before %s", after, before)
	}
	if err := remove(bob, r.allow(t, bob, nightly).GetGrantId()); err != nil {
		t.Errorf("another user: %v", err)
	}
	if _, err := r.sessions().SignOutEverywhere(alice, &server1v1.SignOutEverywhereRequest{}); err != nil {
		t.Error(err)
	}
}

// K04: withdrawn in any way, a grant gives nothing, and what it gave is refused
// within a second.
func TestK04Withdrawn(t *testing.T) {
	t.Parallel()
	k04Withdrawn(t, newTrustedSite(t))
}

func TestK04WithdrawnOnPostgreSQL(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.database = servingtest.Postgres(t)
	k04Withdrawn(t, s)
}

func k04Withdrawn(t *testing.T, s *site) {
	t.Helper()
	for _, name := range []string{"alice", "bob", "carol", "dave", "erin", "frank"} {
		s.addUser(t, name, "payer")
	}
	nightly, doomed := s.addClient(t, "nightly"), s.addClient(t, "doomed")
	var raw string // the token that was issued last
	next := robot{nightly.name, nightly.id, newKey(t)}
	s.command(t, "client", "key", "add", "nightly", "--key="+s.publicFile(t, next.key))
	r := s.start(t, s.publishing("sign-in-attempts", "1000"))
	a := r.audience(t)
	type act struct {
		name, user string
		client     robot
		do         func(user context.Context, grant *handoffv1.Grant) error
		want       handoff.Reason // of another handoff by the grant
	}
	for _, c := range []act{
		{"deleted", "alice", nightly, func(user context.Context, g *handoffv1.Grant) error {
			_, err := r.grants().DeleteGrant(user, &handoffv1.DeleteGrantRequest{GrantId: g.GetGrantId()})
			return err
		}, handoff.ReasonArgumentInvalid},
		{"signed out everywhere", "bob", nightly, func(user context.Context, _ *handoffv1.Grant) error {
			_, err := r.sessions().SignOutEverywhere(user, &server1v1.SignOutEverywhereRequest{})
			return err
		}, handoff.ReasonArgumentInvalid},
		{"the user disabled", "carol", nightly, func(context.Context, *handoffv1.Grant) error {
			s.command(t, "user", "disable", "carol")
			return nil
		}, handoff.ReasonArgumentInvalid},
		{"its sid taken back by an operator", "erin", nightly, func(user context.Context, _ *handoffv1.Grant) error {
			claims, err := handoff.UnverifiedClaims(raw)
			if err != nil {
				return err
			}
			s.command(t, "revoke", "--session="+claims.Session)
			if listed, err := r.grants().ListGrants(user, &handoffv1.ListGrantsRequest{}); err != nil || len(listed.GetGrants()) != 0 {
				t.Errorf("erin's grants are %v, %v", listed, err)
			}
			return nil
		}, handoff.ReasonArgumentInvalid},
		{"the client cut off", "frank", nightly, func(context.Context, *handoffv1.Grant) error {
			s.command(t, "revoke", "--subject="+nightly.id)
			return nil
		}, 0},
		{"the client disabled", "dave", doomed, func(context.Context, *handoffv1.Grant) error {
			s.command(t, "client", "disable", "doomed")
			return nil
		}, handoff.ReasonClientInvalid},
		{"a key removed", "dave", nightly, func(context.Context, *handoffv1.Grant) error {
			s.command(t, "client", "key", "remove", "nightly", nightly.key.Key().ID())
			return nil
		}, handoff.ReasonClientInvalid},
	} {
		user, _ := r.signIn(t, c.user)
		grant := r.allow(t, user, c.client)
		raw = r.mustPayBy(t, c.client, grant.GetGrantId())
		a.wantNow(t, c.name+": before", raw, 0)
		if err := c.do(user, grant); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		a.wantSoon(t, c.name, raw, handoff.ReasonTokenRevoked)
		_, err := r.payBy(t, c.client, grant.GetGrantId())
		if c.want != 0 {
			wantReason(t, c.name+": afterwards", err, c.want)
		} else if err != nil {
			t.Errorf("%s: afterwards: %v", c.name, err)
		}
		if c.name == "a key removed" {
			a.wantNow(t, "with the key that is left", r.mustPayBy(t, next, grant.GetGrantId()), 0)
		}
	}
}

// The page says which programs act for the user, allows one, and withdraws it; a form that
// is not its own does nothing.
func TestK04GrantsPage(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	nightly := s.addClient(t, "nightly")
	r := s.openShop(t)
	a := r.audience(t)
	b := r.browser(t)
	b.get("/grants").wantRedirect(t, "/sign-in?to=%2Fgrants")
	b.signIn("alice")
	b.get("/grants").want(t, http.StatusOK, "No program may do anything in your name.")
	for name, form := range map[string][]string{
		"no days":      {"client", nightly.id, "audience", billing},
		"a year":       {"client", nightly.id, "audience", billing, "days", "365"},
		"no client":    {"client", handoff.NewID(), "audience", billing, "days", "1"},
		"no audience":  {"client", nightly.id, "audience", "https://other.example", "days", "1"},
		"a field more": {"client", nightly.id, "audience", billing, "days", "1", "methods", getInvoice},
	} {
		if page := b.post("/grants", form...); page.status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, page.status)
		}
	}
	b.post("/grants", "client", nightly.id, "audience", billing, "days", "30").wantRedirect(t, "/grants")
	page := b.get("/grants")
	page.want(t, http.StatusOK, "<h2>nightly</h2>")
	page.want(t, http.StatusOK, "May pay invoices at <strong>billing.example</strong> until ")
	id := regexp.MustCompile(`action="/grants/([A-Za-z0-9_-]{22})/withdraw"`).FindStringSubmatch(page.body)
	if id == nil {
		t.Fatalf("nothing to withdraw:\n%s", page.body)
	}
	raw := r.mustPayBy(t, nightly, id[1])
	a.wantNow(t, "allowed", raw, 0)
	stranger := r.browser(t)
	stranger.signIn("bob")
	stranger.post("/grants/"+id[1]+"/withdraw").wantRedirect(t, "/grants")
	a.wantNow(t, "bob cannot withdraw it", raw, 0)
	b.post("/grants/"+id[1]+"/withdraw").wantRedirect(t, "/grants")
	a.wantSoon(t, "withdrawn", raw, handoff.ReasonTokenRevoked)
	b.get("/grants").want(t, http.StatusOK, "No program may do anything in your name.")
	if page := b.do(http.MethodPost, "/grants", "client="+nightly.id+"&audience=x&days=1", map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}); page.status != http.StatusForbidden {
		t.Errorf("another site allows a program: %d", page.status)
	}
}
