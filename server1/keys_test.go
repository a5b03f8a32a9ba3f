package server1

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// quick are settings under which keys change within seconds.
func (s *site) quick(more ...string) map[string]string {
	settings := s.publishing(append([]string{
		"key", "", "key-dir", s.path("keys"), "trust-lifetime", "2s", "lifetime", "2s", "max-lifetime", "2s", "skew", "100ms",
		"policy", s.path("quick.json"), "sign-in-attempts", "1000", "handoff-quota", "1000000",
	}, more...)...)
	return settings
}

func newQuickSite(t testing.TB) *site {
	s := newTrustedSite(t)
	s.write(t, "quick.json", strings.ReplaceAll(goodPolicy, `, "max_lifetime_seconds": 30`, ""), 0o644)
	return s
}

// kidOf returns the id of the key that signed a token, without verifying it.
func kidOf(t testing.TB, raw string) string {
	t.Helper()
	token, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return token.Signatures[0].Header.KeyID
}

// Keys that change by the clock, under load: no token that SERVER1 hands out is
// refused, and none that a retired key has signed is accepted after its window.
func TestF06F07RotationUnderLoad(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.quick("rotate-every", "1s"))
	a := r.audience(t)
	ctx, _ := r.signIn(t, "alice")

	var mu sync.Mutex
	private := map[string]*signkey.Key{} // as a thief of the folder would have them
	signed := map[string]bool{}
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(signed) >= 3
	}
	began := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !enough() && time.Since(began) < 2*patience {
				h, err := r.handoffs().IssueHandoff(ctx, pay(t))
				if err != nil {
					t.Error(err)
					return
				}
				kid := kidOf(t, h.GetToken())
				mu.Lock()
				if signed[kid] = true; private[kid] == nil {
					if key, err := signkey.Load(s.path("keys/" + kid + ".key")); err == nil {
						private[kid] = key
					}
				}
				mu.Unlock()
				for range 3 {
					a.wantAlive(t, "a token of the server's", h)
					time.Sleep(300 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	if len(signed) < 3 {
		t.Errorf("%d keys have signed", len(signed))
	}
	if files, err := os.ReadDir(s.path("keys")); err != nil || len(files) > 3 {
		t.Errorf("%d private keys are kept, %v", len(files), err)
	}
	forgotten := func() (kids []string) { // the ring has none that is still listed
		listed := s.command(t, "keys", "list")
		for kid := range private {
			if !strings.Contains(listed, kid) {
				kids = append(kids, kid)
			}
		}
		return kids
	}
	servingtest.Eventually(t, "a key is forgotten", func() bool { return len(forgotten()) > 0 })
	gone := forgotten()
	a.newer(t)
	for _, kid := range gone {
		a.wantNow(t, "a token of a key that was retired", forged(t, private[kid]), handoff.ReasonTokenInvalid)
	}
}

// wantAlive checks that the audience accepts a token until it expires.
func (a *audience) wantAlive(t testing.TB, what string, h *handoffv1.IssueHandoffResponse) {
	t.Helper()
	reason, err := a.verify(h.GetToken())
	late := reason == handoff.ReasonTokenExpired || reason == handoff.ReasonTrustStale
	if err != nil && (!late || time.Now().Before(h.GetExpireTime().AsTime())) {
		t.Errorf("%s: %v", what, err)
	}
}

// forged returns a token that somebody signs now with a copy of a key.
func forged(t testing.TB, key *signkey.Key) string {
	t.Helper()
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: issuerName, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := issuer.Issue(context.Background(), handoff.IssueParams{
		Audience: billing, Subject: "anybody", Operation: handoff.Operation{Method: payInvoice},
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// An operator changes the keys of a running server by hand.
func TestF06KeysByHand(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.quick("lifetime", "60s", "max-lifetime", "60s"))
	a := r.audience(t)
	ctx, _ := r.signIn(t, "alice")
	first := kidOf(t, r.issue(t, ctx).GetToken())
	stolen, err := signkey.Load(s.path("keys/" + first + ".key"))
	if err != nil {
		t.Fatal(err)
	}
	wantFailure := func(what, complaint string, args ...string) {
		t.Helper()
		status, stdout, stderr := s.try(args...)
		if status != 1 || stdout != "" || !strings.Contains(stderr, complaint) {
			t.Errorf("%s: exit status %d, %q, %q; want 1 and %q", what, status, stdout, stderr, complaint)
		}
	}
	wantFailure("the only key", "prepare another", "keys", "taint", "--key-dir", s.path("keys"), "--", first)
	wantFailure("the signing key", "activate another", "keys", "retire", "--", first)
	wantFailure("no such key", "no signing key", "keys", "activate", "AAAA")

	began := time.Now()
	s.command(t, "keys", "prepare", "--key-dir", s.path("keys"))
	next := nextKey(t, s)
	var printed string
	servingtest.Eventually(t, "the next key is activated", func() bool {
		signs := kidOf(t, r.issue(t, ctx).GetToken())
		status, stdout, stderr := s.try("keys", "activate", "--", next)
		if signs != first {
			t.Errorf("a next key signs")
		}
		if status != 0 && !strings.Contains(stderr, "wait") {
			t.Errorf("before audiences have heard: exit status %d, %q", status, stderr)
		}
		printed = stdout
		return status == 0
	})
	if waited, least := time.Since(began), 2200*time.Millisecond; waited < least { // the list's lifetime and twice the skew
		t.Errorf("a key is activated after %s, before audiences have heard", waited)
	}
	if !strings.Contains(printed, first) {
		t.Errorf("%q does not say which key is to be retired", printed)
	}
	servingtest.Eventually(t, "the activated key signs", func() bool {
		h := r.issue(t, ctx)
		a.wantAlive(t, "a token during the change", h)
		return kidOf(t, h.GetToken()) == next
	})
	servingtest.Eventually(t, "every process has taken the new key up, and the former one is retired", func() bool {
		status, _, stderr := s.try("keys", "retire", "--key-dir", s.path("keys"), "--", first)
		if status != 0 && !strings.Contains(stderr, "too early: a process of the issuer may still sign") {
			t.Fatalf("exit status %d: %s", status, stderr)
		}
		return status == 0
	})
	if _, err := os.Stat(s.path("keys/" + first + ".key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the private half of a retired key is still there: %v", err)
	}
	a.wantNow(t, "a token of the retired key, at once", forged(t, stolen), 0)

	if printed := s.command(t, "keys", "taint", "--", first); !strings.Contains(printed, first+".key") {
		t.Errorf("%q does not say that the private half is left", printed)
	}
	a.wantSoon(t, "a token of the tainted key", forged(t, stolen), handoff.ReasonTokenInvalid)
	a.wantAlive(t, "a token of the signing key", r.issue(t, ctx))
	listed := s.command(t, "keys", "list")
	if !strings.Contains(listed, "tainted") || !strings.Contains(listed, "active, signs") {
		t.Errorf("listed:\n%s", listed)
	}
	wantFailure("a key that was tainted", "state", "keys", "taint", "--", first)
}

// nextKey returns the id of the key that `keys list` says is prepared.
func nextKey(t testing.TB, s *site) string {
	t.Helper()
	for line := range strings.Lines(s.command(t, "keys", "list")) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "next" {
			return fields[0]
		}
	}
	t.Fatal("no key is prepared")
	return ""
}

// A key that everybody may have is tainted: the next one signs in its place.
func TestF07TaintTheSigningKey(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.quick())
	a := r.audience(t)
	ctx, _ := r.signIn(t, "alice")
	leaked := r.issue(t, ctx).GetToken()
	s.command(t, "keys", "prepare", "--key-dir", s.path("keys"))
	next := nextKey(t, s)
	s.command(t, "keys", "taint", "--key-dir", s.path("keys"), "--", kidOf(t, leaked))
	a.wantSoon(t, "what it signed", leaked, handoff.ReasonTokenInvalid)
	servingtest.Eventually(t, "the next key signs", func() bool { return kidOf(t, r.issue(t, ctx).GetToken()) == next })
	a.wantAlive(t, "what the next key signs", r.issue(t, ctx))
}

// Started with one key, a server later takes a folder of keys, and the key's
// tokens stand.
func TestF06FromOneKeyToAFolder(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	s.addUser(t, "alice", "payer")
	var raw string
	t.Run("one key", func(t *testing.T) {
		r := s.start(t, s.quick("key", s.path("shop.key"), "key-dir", "", "lifetime", "60s", "max-lifetime", "60s"))
		ctx, _ := r.signIn(t, "alice")
		if raw = r.issue(t, ctx).GetToken(); kidOf(t, raw) != s.key.Key().ID() {
			t.Error("another key signs")
		}
	})
	t.Run("another key at once", func(t *testing.T) {
		other, err := signkey.Generate(handoff.ES256)
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Save(s.path("other.key")); err != nil {
			t.Fatal(err)
		}
		settings := s.settings()
		for flag, value := range s.quick("key", s.path("other.key"), "key-dir", "", "lifetime", "60s", "max-lifetime", "60s") {
			if settings[flag] = value; value == "" {
				delete(settings, flag)
			}
		}
		refused(t, arguments("serve", settings), nil, "--key")
	})
	t.Run("a folder", func(t *testing.T) {
		r := s.start(t, s.quick("key", s.path("shop.key"), "rotate-every", "1s", "lifetime", "60s", "max-lifetime", "60s"))
		a := r.audience(t)
		a.wantNow(t, "the token of before", raw, 0)
		ctx, _ := r.signIn(t, "alice")
		servingtest.Eventually(t, "a key of the folder signs", func() bool {
			h := r.issue(t, ctx)
			a.wantAlive(t, "a token during the change", h)
			return kidOf(t, h.GetToken()) != s.key.Key().ID()
		})
	})
	if _, err := os.Stat(s.path("shop.key")); err != nil {
		t.Errorf("the operator's own file: %v", err)
	}
}

// A key that was tainted never signs again, with or without a trust list.
func TestF07TaintedKeyStaysOut(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	t.Run("tainted", func(t *testing.T) {
		s.start(t, s.quick("key", s.path("shop.key")))
		s.command(t, "keys", "prepare", "--key-dir", s.path("keys"), "--key", s.path("shop.key"))
		s.command(t, "keys", "taint", "--", s.key.Key().ID())
	})
	for name, change := range map[string]map[string]string{
		"as the only key": s.quick("key", s.path("shop.key"), "key-dir", ""), "without a list": nil,
	} {
		t.Run(name, func(t *testing.T) {
			settings := s.settings()
			for flag, value := range change {
				if settings[flag] = value; value == "" {
					delete(settings, flag)
				}
			}
			refused(t, arguments("serve", settings), nil, "--key")
		})
	}
}

// A process whose folder lacks a key is not ready before the key is to sign, and
// issues nothing once it is, until the key is there.
func TestPrivateKeyElsewhere(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.quick())
	ctx, _ := r.signIn(t, "alice")
	r.issue(t, ctx)
	if err := os.CopyFS(s.path("elsewhere"), os.DirFS(s.path("keys"))); err != nil {
		t.Fatal(err)
	}
	s.ownerOnly(t, "elsewhere")
	s.command(t, "keys", "prepare", "--key-dir", s.path("elsewhere"))
	next := nextKey(t, s)
	servingtest.Eventually(t, "it is not ready", func() bool { return !r.serving(t) })
	r.issue(t, ctx)
	time.Sleep(2300 * time.Millisecond)
	s.command(t, "keys", "activate", "--", next)
	issues := func() bool {
		_, err := r.handoffs().IssueHandoff(ctx, pay(t))
		if err != nil {
			wantReason(t, "without the private key", err, handoff.ReasonIssuerUnavailable)
		}
		return err == nil
	}
	servingtest.Eventually(t, "it issues nothing", func() bool { return !issues() })
	if err := os.Rename(s.path("elsewhere/"+next+".key"), s.path("keys/"+next+".key")); err != nil {
		t.Fatal(err)
	}
	servingtest.Eventually(t, "it issues again", issues)
	servingtest.Eventually(t, "it is ready", func() bool { return r.serving(t) })
}

// serving reports whether the server says that it is.
func (r *running) serving(t testing.TB) bool {
	t.Helper()
	resp, err := healthpb.NewHealthClient(r.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// ownerOnly makes the files of a folder its owner's alone.
func (s *site) ownerOnly(t testing.TB, folder string) {
	t.Helper()
	files, err := os.ReadDir(s.path(folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chmod(s.path(folder+"/"+f.Name()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A key is prepared in the server's own folder alone, and not where nobody would
// find it; where the signing key is lost, there is a way on.
func TestPrepareElsewhere(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	s.addUser(t, "alice", "payer")
	var first string
	t.Run("running", func(t *testing.T) {
		r := s.start(t, s.quick())
		ctx, _ := r.signIn(t, "alice")
		first = kidOf(t, r.issue(t, ctx).GetToken())
		before := s.command(t, "keys", "list")
		if err := os.Mkdir(s.path("empty"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, folder := range []string{"nokeys", "empty"} {
			if status, stdout, stderr := s.try("keys", "prepare", "--key-dir", s.path(folder)); status != 2 || stdout != "" || !strings.Contains(stderr, "--key-dir") {
				t.Errorf("%s: exit status %d, %q, %q", folder, status, stdout, stderr)
			}
			if files, _ := os.ReadDir(s.path(folder)); len(files) > 0 {
				t.Errorf("%s: %v was made", folder, files)
			}
		}
		if after := s.command(t, "keys", "list"); after != before {
			t.Errorf("the ring has changed:\n%s", after)
		}
	})
	if err := os.Remove(s.path("keys/" + first + ".key")); err != nil {
		t.Fatal(err)
	}
	settings := s.settings()
	for flag, value := range s.quick() {
		if settings[flag] = value; value == "" {
			delete(settings, flag)
		}
	}
	refused(t, arguments("serve", settings), nil, "keys prepare --lost="+first)
	s.command(t, "keys", "prepare", "--key-dir", s.path("keys"), "--lost="+first)
	s.command(t, "keys", "taint", "--key-dir", s.path("keys"), "--", first)
	r := s.start(t, s.quick())
	ctx, _ := r.signIn(t, "alice")
	if r.issue(t, ctx); !r.serving(t) {
		t.Error("it is not ready")
	}
}
