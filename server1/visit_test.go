package server1

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/shared/handoff"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

const exportPayments = server2v1.InvoiceService_ExportPayments_FullMethodName

// newVisited returns a site whose payers can visit billing.
func newVisited(t testing.TB, more string) *site {
	t.Helper()
	s := newTrustedSite(t)
	s.write(t, "policy.json", strings.Replace(goodPolicy, `"target"`, `"web": "`+billing+`",
		"visits": {"roles": ["payer"], "methods": ["`+getInvoice+`", "`+exportPayments+`"]`+more+`}, "target"`, 1), 0o644)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "bob", "reader")
	return s
}

func (s *site) openVisited(t testing.TB, more ...string) *running {
	t.Helper()
	return s.start(t, s.publishing(append([]string{"max-visit-lifetime", "1h", "sign-in-attempts", "1000"}, more...)...))
}

func (r *running) visit(t testing.TB, ctx context.Context) *handoffv1.IssueVisitResponse {
	t.Helper()
	resp, err := r.handoffs().IssueVisit(ctx, &handoffv1.IssueVisitRequest{Audience: billing})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestIssueVisit(t *testing.T) {
	t.Parallel()
	s := newVisited(t, `, "max_lifetime_seconds": 1800`)
	r := s.openVisited(t, "session-idle", "25m", "session-lifetime", "25m")
	a := r.audience(t)
	alice, _ := r.signIn(t, "alice")
	for name, test := range map[string]struct {
		req      *handoffv1.IssueVisitRequest
		methods  string
		lifetime time.Duration
	}{
		"all":        {&handoffv1.IssueVisitRequest{Audience: billing}, getInvoice + " " + exportPayments, 15 * time.Minute},
		"one method": {&handoffv1.IssueVisitRequest{Audience: billing, Methods: []string{exportPayments}}, exportPayments, 15 * time.Minute},
		"a minute":   {&handoffv1.IssueVisitRequest{Audience: billing, Lifetime: durationpb.New(time.Minute)}, getInvoice + " " + exportPayments, time.Minute},
	} {
		resp, err := r.handoffs().IssueVisit(alice, test.req)
		if err != nil {
			t.Fatal(err)
		}
		a.wantSoon(t, name, resp.GetToken(), 0)
		verified, err := a.verifier.VerifyVisit(t.Context(), resp.GetToken())
		if err != nil {
			t.Fatal(err)
		}
		c := verified.Claims()
		if strings.Join(c.Methods, " ") != test.methods || c.Expires.Sub(c.IssuedAt) != test.lifetime || c.ID != resp.GetVisitId() ||
			!c.Expires.Equal(resp.GetExpireTime().AsTime()) || c.Session == "" || resp.GetTarget() != "dns:///billing.example:443" {
			t.Errorf("%s: %+v, %v", name, c, resp)
		}
		row := column(t, s.open(t), `SELECT event || '|' || method || '|' || audience || '|' || expires_at FROM audit WHERE handoff_id = ?`, c.ID)
		if len(row) != 1 || !strings.HasPrefix(row[0], "visit_issued|"+test.methods+"|"+billing+"|") {
			t.Errorf("%s: the audit has %q", name, row)
		}
	}
	// No visit outlasts its session.
	resp, err := r.handoffs().IssueVisit(alice, &handoffv1.IssueVisitRequest{Audience: billing, Lifetime: durationpb.New(30 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(resp.GetExpireTime().AsTime()); left > 25*time.Minute || left < 23*time.Minute {
		t.Errorf("a visit of 30 minutes in a session of 25 lasts %s", left)
	}
	if log := r.log.String(); !strings.Contains(log, `"msg":"visit","outcome":"issued"`) || strings.Contains(log, resp.GetToken()) {
		t.Errorf("the log says\n%s", log)
	}

	bob, _ := r.signIn(t, "bob")
	_, err = r.handoffs().IssueVisit(bob, &handoffv1.IssueVisitRequest{Audience: billing})
	wantReason(t, "a reader", err, handoff.ReasonPolicyDenied)
	_, err = r.handoffs().IssueVisit(t.Context(), &handoffv1.IssueVisitRequest{Audience: billing})
	wantReason(t, "nobody", err, handoff.ReasonSessionInvalid)
	for name, test := range map[string]struct {
		req   *handoffv1.IssueVisitRequest
		field string
	}{
		"no audience":      {&handoffv1.IssueVisitRequest{}, "audience"},
		"another audience": {&handoffv1.IssueVisitRequest{Audience: "https://other.example"}, "audience"},
		"a write":          {&handoffv1.IssueVisitRequest{Audience: billing, Methods: []string{payInvoice}}, "methods"},
		"one and a write":  {&handoffv1.IssueVisitRequest{Audience: billing, Methods: []string{getInvoice, payInvoice}}, "methods"},
		"a method twice":   {&handoffv1.IssueVisitRequest{Audience: billing, Methods: []string{getInvoice, getInvoice}}, "methods"},
		"too long":         {&handoffv1.IssueVisitRequest{Audience: billing, Lifetime: durationpb.New(1801 * time.Second)}, "lifetime"},
		"no time":          {&handoffv1.IssueVisitRequest{Audience: billing, Lifetime: durationpb.New(0)}, "lifetime"},
		"a fraction":       {&handoffv1.IssueVisitRequest{Audience: billing, Lifetime: durationpb.New(1500 * time.Millisecond)}, "lifetime"},
	} {
		_, err := r.handoffs().IssueVisit(alice, test.req)
		wantField(t, name, err, handoff.ReasonArgumentInvalid, test.field)
	}
}

// What takes handoffs back takes visits back, and stays on the list for as long as they
// would have lasted.
func TestF04VisitsTakenBack(t *testing.T) {
	t.Parallel()
	s := newVisited(t, "")
	r := s.openVisited(t)
	a := r.audience(t)
	for name, do := range map[string]func(ctx context.Context, visit *handoffv1.IssueVisitResponse, claims handoff.Claims) error{
		"RevokeHandoff": func(ctx context.Context, visit *handoffv1.IssueVisitResponse, _ handoff.Claims) error {
			return second(r.handoffs().RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: visit.GetVisitId()}))
		},
		"revoke --handoff": func(_ context.Context, visit *handoffv1.IssueVisitResponse, _ handoff.Claims) error {
			s.command(t, "revoke", "--handoff="+visit.GetVisitId())
			return nil
		},
		"SignOut": func(ctx context.Context, _ *handoffv1.IssueVisitResponse, _ handoff.Claims) error {
			return second(r.sessions().SignOut(ctx, &server1v1.SignOutRequest{}))
		},
		"revoke --session": func(_ context.Context, _ *handoffv1.IssueVisitResponse, claims handoff.Claims) error {
			s.command(t, "revoke", "--session="+claims.Session)
			return nil
		},
		"revoke --subject": func(_ context.Context, _ *handoffv1.IssueVisitResponse, claims handoff.Claims) error {
			s.command(t, "revoke", "--subject="+claims.Subject)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, _ := r.signIn(t, "alice")
			visit := r.visit(t, ctx)
			a.wantSoon(t, "before", visit.GetToken(), 0)
			claims, err := handoff.UnverifiedClaims(visit.GetToken())
			if err != nil {
				t.Fatal(err)
			}
			if err := do(ctx, visit, claims); err != nil {
				t.Fatal(err)
			}
			a.wantSoon(t, "taken back", visit.GetToken(), handoff.ReasonTokenRevoked)
			lasting := column(t, s.open(t), `SELECT COUNT(*) FROM revocations WHERE ends_at >= ?`, claims.Expires.UnixMilli())
			if lasting[0] == "0" {
				t.Error("the revocation leaves the list before the visit expires")
			}
		})
	}
}

func TestVisitSettings(t *testing.T) {
	t.Parallel()
	s := newVisited(t, "")
	for name, test := range map[string]struct {
		settings map[string]string
		want     string
	}{
		"a policy with visits, and no flag": {s.publishing(), "visits: this server issues no visits: --max-visit-lifetime is not set"},
		"no trust list":                     {map[string]string{"max-visit-lifetime": "15m"}, "--max-visit-lifetime: needs --trust-key"},
		"more than an hour":                 {s.publishing("max-visit-lifetime", "61m"), "--max-visit-lifetime must be whole seconds from 1s to 1h0m0s"},
		"a fraction":                        {s.publishing("max-visit-lifetime", "1500ms"), "--max-visit-lifetime must be whole seconds"},
		"no visit at once":                  {s.publishing("max-visits", "0"), "--max-visits must be from 1 to 1000"},
		"listed, and none":                  {s.publishing("visits", "listed"), "--visits: needs --max-visit-lifetime"},
	} {
		settings := s.settings()
		for flag, value := range test.settings {
			settings[flag] = value
		}
		status, _, complaint := s.try(arguments("serve", settings)...)
		if status == 0 || !strings.Contains(complaint, test.want) {
			t.Errorf("%s: exit status %d, %q, want %q", name, status, complaint, test.want)
		}
	}
}

// The person opens billing from the orders, and comes back for another visit.
func TestH01OpenBilling(t *testing.T) {
	t.Parallel()
	s := newVisited(t, "")
	r := s.openVisited(t, "http", "127.0.0.1:0")
	a := r.audience(t)
	b := r.browser(t)
	b.get("/visit").wantRedirect(t, "/sign-in?"+url.Values{"to": {"/visit"}}.Encode())
	b.post("/sign-in", "user_name", "alice", "password", password, "to", "/visit").wantRedirect(t, "/visit")

	for name, headers := range map[string]map[string]string{
		"typed": {}, "a foreign link": {"Sec-Fetch-Site": "cross-site", "Referer": "https://evil.example/"}, "one without a name": {"Sec-Fetch-Site": "cross-site"},
		"a sibling's": {"Sec-Fetch-Site": "same-site", "Referer": "https://x.billing.example/"}, "billing over http": {"Sec-Fetch-Site": "cross-site", "Referer": "http://billing.example/"},
		"what looks like billing": {"Sec-Fetch-Site": "cross-site", "Referer": "https://billing.example.evil.example/"}, "its user": {"Sec-Fetch-Site": "cross-site", "Referer": "https://billing.example@evil.example/"},
		"no address": {"Referer": "https://billing.example:x/%"},
	} {
		page := b.do(http.MethodGet, "/visit", "", headers)
		page.want(t, http.StatusOK, `<form method="post" action="/visit">`)
		if strings.Contains(page.body, "<script") || strings.Contains(page.header.Get("Content-Security-Policy"), "script-src") {
			t.Errorf("%s: the page goes on by itself", name)
		}
	}
	b.do(http.MethodGet, "/visit", "", map[string]string{"Sec-Fetch-Site": "same-origin"}).want(t, http.StatusOK, "<script nonce=") // has just signed in
	byApp := map[string]string{"Sec-Fetch-Site": "cross-site", "Referer": billing + "/"}
	page := b.do(http.MethodGet, "/visit", "", byApp)
	page.want(t, http.StatusOK, `<form method="post" action="/visit">`)
	nonce := regexp.MustCompile(`<script nonce="([A-Z0-9]{26})">`).FindStringSubmatch(page.body)
	if nonce == nil || !strings.Contains(page.header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'nonce-"+nonce[1]+"'; style-src") ||
		strings.Contains(page.header.Get("Content-Security-Policy"), "unsafe") {
		t.Errorf("%q\n%s", page.header.Get("Content-Security-Policy"), page.body)
	}
	if again := b.do(http.MethodGet, "/visit", "", byApp); strings.Contains(again.body, nonce[1]) {
		t.Error("a nonce is used twice")
	}
	issued := column(t, s.open(t), `SELECT COUNT(*) FROM audit WHERE event = 'visit_issued'`)[0]
	if issued != "0" {
		t.Errorf("a GET has issued %s visits", issued)
	}

	b.get("/orders").want(t, http.StatusOK, "<button>Open billing.example</button>")
	sent := b.post("/visit", "audience", billing)
	sent.want(t, http.StatusOK, `action="`+billing+`/handoff"`)
	found := sentToken.FindStringSubmatch(sent.body)
	if found == nil {
		t.Fatalf("no token in the page:\n%s", sent.body)
	}
	a.wantSoon(t, "the visit", found[1], 0)
	if !handoff.KindVisit.Of(found[1]) || sent.header.Get("Location") != "" || sent.header.Get("Referrer-Policy") != "strict-origin" {
		t.Errorf("%v", sent.header)
	}
	b.post("/visit", "audience", "https://other.example").want(t, http.StatusBadRequest, "The form could not be read")
	b.post("/visit").want(t, http.StatusBadRequest, "The form could not be read")
	for name, origin := range map[string]map[string]string{
		"billing": {"Origin": billing, "Sec-Fetch-Site": "cross-site"}, "nobody": {"Origin": "", "Sec-Fetch-Site": ""},
	} {
		foreign := b.do(http.MethodPost, "/visit", url.Values{"audience": {billing}}.Encode(), origin)
		if foreign.status != http.StatusForbidden {
			t.Errorf("posted by %s: %d", name, foreign.status)
		}
	}
	b.post("/sign-out").wantRedirect(t, "/signed-out")
	a.wantSoon(t, "signed out", found[1], handoff.ReasonTokenRevoked)

	// Who has no role for it is told so.
	other := r.browser(t)
	other.signIn("bob")
	other.post("/visit", "audience", billing).want(t, http.StatusForbidden, "You may not do this")
	// Where nobody can be visited there is no such page.
	shop := newShop(t).openShop(t).browser(t)
	shop.signIn("alice")
	shop.get("/visit").want(t, http.StatusNotFound, "There is no such page")
	if page := shop.get("/orders"); strings.Contains(page.body, "/visit") {
		t.Errorf("%s", page.body)
	}
}

// I04: a user has so many visits that stand. What has ended leaves room, and others have
// theirs.
func TestI04StandingVisits(t *testing.T) {
	t.Parallel()
	s := newVisited(t, "")
	s.addUser(t, "carol", "payer")
	r := s.openVisited(t, "max-visits", "3", "http", "127.0.0.1:0")
	alice, _ := r.signIn(t, "alice")
	again, _ := r.signIn(t, "alice") // another session of hers
	carol, _ := r.signIn(t, "carol")
	first := r.visit(t, alice)
	r.visit(t, again)
	r.visit(t, alice)
	before := column(t, s.open(t), `SELECT COUNT(*) FROM audit`)[0]
	for _, ctx := range []context.Context{alice, again} {
		_, err := r.handoffs().IssueVisit(ctx, &handoffv1.IssueVisitRequest{Audience: billing})
		wantReason(t, "a fourth", err, handoff.ReasonLimitExceeded)
	}
	if after := column(t, s.open(t), `SELECT COUNT(*) FROM audit`)[0]; after != before {
		t.Errorf("the audit has %s rows, before %s", after, before)
	}
	b := r.browser(t)
	b.signIn("alice")
	b.post("/visit", "audience", billing).want(t, http.StatusTooManyRequests, "")
	r.visit(t, carol)
	r.issue(t, alice) // a handoff is none
	if _, err := r.handoffs().RevokeHandoff(alice, &handoffv1.RevokeHandoffRequest{HandoffId: first.GetVisitId()}); err != nil {
		t.Fatal(err)
	}
	r.visit(t, alice) // in its place
	if _, err := r.sessions().SignOut(again, &server1v1.SignOutRequest{}); err != nil {
		t.Fatal(err)
	}
	resp, err := r.handoffs().IssueVisit(alice, &handoffv1.IssueVisitRequest{Audience: billing, Lifetime: durationpb.New(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(resp.GetExpireTime().AsTime()) + 10*time.Millisecond)
	r.visit(t, alice)
}

// Where visits are listed, one is handed out when the trust list names it, and one that a
// stolen key has signed is refused.
func TestVisitsListed(t *testing.T) {
	t.Parallel()
	s := newVisited(t, "")
	r := s.openVisited(t, "visits", "listed")
	a := r.audience(t)
	alice, _ := r.signIn(t, "alice")
	for range 5 {
		visit := r.visit(t, alice)
		a.wantSoon(t, "listed", visit.GetToken(), 0)
	}
	thief, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: issuerName, Key: s.key, MaxVisitLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	stolen, _, err := thief.Issue(t.Context(), handoff.IssueParams{
		Audience: billing, Subject: "u-1", Session: handoff.NewID(), Methods: []string{getInvoice},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.verifier.VerifyVisit(t.Context(), stolen); handoff.ReasonOf(err) != handoff.ReasonTrustStale {
		t.Errorf("signed by a thief: %v", err)
	}
	if status := a.follower.Status(); status.Visits != 5 {
		t.Errorf("%+v", status)
	}
	revoked := r.visit(t, alice)
	a.wantSoon(t, "one more", revoked.GetToken(), 0)
	if _, err := r.handoffs().RevokeHandoff(alice, &handoffv1.RevokeHandoffRequest{HandoffId: revoked.GetVisitId()}); err != nil {
		t.Fatal(err)
	}
	a.wantSoon(t, "taken back", revoked.GetToken(), handoff.ReasonTokenRevoked)
}
