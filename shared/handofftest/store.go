package handofftest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Store is the conformance test of a handoff.Store: what every verifier relies
// on for a token to be spent once. open returns a store to test; each test calls
// it once, and it may be the same store every time. It takes about two seconds.
//
//	func TestStore(t *testing.T) {
//		handofftest.Store(t, func(t *testing.T) handoff.Store { return newStore(t) })
//	}
//
// The store's clock must be the real one. A store that refuses what was issued
// before it began has the method Skew, as handoff.Store says, and is given
// tokens that are issued just after.
func Store(t *testing.T, open func(t *testing.T) handoff.Store) {
	t.Helper()
	for name, test := range map[string]func(*storeTest){
		"E01 one of many at once succeeds":             (*storeTest).concurrent,
		"E02 a verifier's skew is the store's at most": (*storeTest).skew,
		"E09 a refused token marks nothing":            (*storeTest).poisoning,
		"E10 one issuer's ids are not another's":       (*storeTest).issuers,
		"E11 ids that differ anywhere are different":   (*storeTest).ids,
		"E13 a mark outlives its token":                (*storeTest).outlives,
		"E14 the id is what is spent, not the rest":    (*storeTest).rest,
		"a token of the past is not redeemed twice":    (*storeTest).past,
		"a context that is done redeems nothing":       (*storeTest).done,
		"many different tokens at once all succeed":    (*storeTest).different,
		"chosen issuers and ids are taken as written":  (*storeTest).chosen,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &storeTest{T: t, store: open(t)}
			if s.store == nil {
				t.Fatal("open returned no store")
			}
			if store, ok := s.store.(interface{ Skew() time.Duration }); ok {
				s.ahead = store.Skew() + time.Second
			}
			test(s)
		})
	}
}

type storeTest struct {
	*testing.T
	store handoff.Store
	ahead time.Duration // how far in the future tokens are issued
}

// fresh returns a redemption that no store has seen and any must accept.
func (t *storeTest) fresh() handoff.Redemption {
	issued := time.Now().Add(t.ahead).Truncate(time.Second)
	return handoff.Redemption{
		Issuer: "https://shop.example", ID: handoff.NewID(),
		IssuedAt: issued, Expires: issued.Add(handoff.KindHandoff.DefaultLifetime()),
	}
}

func (t *storeTest) redeem(r handoff.Redemption) error { return t.store.Redeem(t.Context(), r) }

func (t *storeTest) accepted(r handoff.Redemption, what string) {
	t.Helper()
	if err := t.redeem(r); err != nil {
		t.Errorf("%s: refused: %v", what, err)
	}
}

func (t *storeTest) replayed(r handoff.Redemption, what string) {
	t.Helper()
	if err := t.redeem(r); !errors.Is(err, handoff.ErrReplayed) {
		t.Errorf("%s: got %v, want ErrReplayed", what, err)
	}
}

// once checks that r is accepted and then never again.
func (t *storeTest) once(r handoff.Redemption, what string) {
	t.Helper()
	t.accepted(r, what)
	t.replayed(r, what+", again")
	t.replayed(r, what+", a third time")
}

const callers = 32

// together calls redeem from many goroutines, which all start at one moment.
func together(redeem func(caller int)) {
	var wait sync.WaitGroup
	start := make(chan struct{})
	for caller := range callers {
		wait.Go(func() {
			<-start
			redeem(caller)
		})
	}
	close(start)
	wait.Wait()
}

func (t *storeTest) concurrent() {
	for range 50 {
		r := t.fresh()
		var answers [callers]error
		together(func(caller int) { answers[caller] = t.redeem(r) })
		succeeded := 0
		for _, err := range answers {
			if err == nil {
				succeeded++
			} else if !errors.Is(err, handoff.ErrReplayed) {
				t.Errorf("got %v, want ErrReplayed", err)
			}
		}
		if succeeded != 1 {
			t.Fatalf("%d of %d callers redeemed one token, want 1", succeeded, callers)
		}
	}
}

func (t *storeTest) different() {
	var all [callers][20]handoff.Redemption
	for i := range all {
		for j := range all[i] {
			all[i][j] = t.fresh()
		}
	}
	together(func(caller int) {
		for _, r := range all[caller] {
			t.accepted(r, "a fresh token")
		}
	})
	together(func(caller int) {
		for _, r := range all[(caller+1)%callers] {
			t.replayed(r, "a token that another caller redeemed")
		}
	})
}

func (t *storeTest) issuers() {
	r := t.fresh()
	t.once(r, "the first issuer's")
	r.Issuer = "https://other.example"
	t.once(r, "another issuer's with the same id")

	// Where one text ends and the other begins counts.
	r.Issuer, r.ID = "https://a.example/x", "y"+r.ID
	t.once(r, "the id y…")
	r.Issuer, r.ID = "https://a.example/", "x"+r.ID
	t.once(r, "the id xy… of a shorter issuer")
}

func (t *storeTest) ids() {
	r := t.fresh()
	t.once(r, "an id")
	for i := range len(r.ID) {
		other := r
		changed := byte('A')
		if r.ID[i] == changed {
			changed = 'B'
		}
		other.ID = r.ID[:i] + string(changed) + r.ID[i+1:]
		t.once(other, "an id with another character")
	}
}

// chosen tries what databases, key patterns and collations treat as alike. A
// verified token's id is 128 random bits; a store must not rely on it.
func (t *storeTest) chosen() {
	r := t.fresh()
	base := r.ID
	for _, suffix := range []string{
		"", " ", "  ", "a", "A", "\u00e4", "a\u0308", "a\x00", "a\x00b", "\n", "\r\n", "*", "?", "%", "_", ":", "{a}", "{b}", "'", `"`,
		`\`, "0", "00", "\xff", "\xfe", strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("x", 4096),
	} {
		r.ID = base + suffix
		t.once(r, "a chosen id")
		r.ID = suffix + base
		if suffix != "" {
			t.once(r, "a chosen id")
		}
	}
	r.ID = base
	r.Issuer = strings.ToUpper(r.Issuer)
	t.once(r, "an issuer in upper case")
}

func (t *storeTest) rest() {
	r := t.fresh()
	t.accepted(r, "a token")
	for _, d := range []time.Duration{-59 * time.Second, -30 * time.Second, -time.Second, time.Second, time.Minute, 3 * time.Minute} {
		other := r
		other.Expires = r.Expires.Add(d)
		t.replayed(other, "the same id with another exp")
		other.IssuedAt = r.IssuedAt.Add(time.Second)
		t.replayed(other, "the same id with another iat and exp")
		other.Skew = time.Millisecond
		t.replayed(other, "the same id from a verifier with another skew")
	}
}

func (t *storeTest) outlives() {
	r := t.fresh()
	r.Expires = time.Now().Truncate(time.Second).Add(time.Second)
	t.accepted(r, "a token that expires within a second")
	time.Sleep(time.Until(r.Expires) + 500*time.Millisecond)
	t.replayed(r, "the token after its exp, within the skew")
}

// skew asks on behalf of a verifier whose skew the store does not cover.
func (t *storeTest) skew() {
	store, ok := t.store.(interface{ Skew() time.Duration })
	if !ok {
		return // it has no start before which it forgets
	}
	r := t.fresh()
	for _, more := range []time.Duration{1, time.Second, handoff.MaxSkew} {
		r.Skew = store.Skew() + more
		if t.redeem(r) == nil {
			t.Errorf("redeemed for a verifier with a skew of %s; the store covers %s", r.Skew, store.Skew())
		}
	}
	r.Skew = store.Skew()
	t.once(r, "a verifier with the store's skew")
}

func (t *storeTest) past() {
	r := t.fresh()
	r.Expires = time.Now().Add(-time.Hour).Truncate(time.Second)
	succeeded := 0
	for range 3 {
		if t.redeem(r) == nil {
			succeeded++
		}
	}
	if succeeded > 1 {
		t.Errorf("%d redemptions of one token, whose time had passed", succeeded)
	}
}

func (t *storeTest) done() {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for what, ctx := range map[string]context.Context{"a cancelled context": cancelled, "a deadline that has passed": late} {
		r := t.fresh()
		if err := t.store.Redeem(ctx, r); err == nil {
			t.Errorf("%s: redeemed", what)
		}
		succeeded := 0
		for range 3 {
			if t.redeem(r) == nil {
				succeeded++
			}
		}
		if succeeded > 1 {
			t.Errorf("%s: %d redemptions afterwards", what, succeeded)
		}
	}
}

// poisoning has a verifier refuse a token in several ways, each of which must
// leave it to be spent by its holder.
func (t *storeTest) poisoning() {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := handoff.NewKey(handoff.EdDSA, public)
	if err != nil {
		t.Fatal(err)
	}
	signer := storeSigner{key, private}
	future := func() time.Time { return time.Now().Add(t.ahead) }
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: signer, Now: future})
	if err != nil {
		t.Fatal(err)
	}
	verifier := func(audience string) *handoff.Verifier {
		v, err := handoff.NewVerifier(handoff.VerifierConfig{
			Audience: audience, Store: t.store, Now: future,
			Issuers: map[string]handoff.KeySource{"https://shop.example": storeKeys{key}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	billing, shipping := verifier("https://billing.example"), verifier("https://shipping.example")
	pay := handoff.Operation{Method: "/billing.v1.Billing/Pay", Bound: []handoff.Field{{Path: "amount", Value: "1200"}}}
	raw, _, err := issuer.Issue(t.Context(), handoff.IssueParams{
		Audience: "https://billing.example", Subject: "u-1", Operation: pay,
	})
	if err != nil {
		t.Fatal(err)
	}
	redeem := func(v *handoff.Verifier, raw string, op handoff.Operation) handoff.Reason {
		verified, err := v.Verify(t.Context(), raw)
		if err == nil {
			_, err = v.Redeem(t.Context(), verified, op, handoff.Rule{})
		}
		return handoff.ReasonOf(err)
	}
	more := handoff.Operation{Method: pay.Method, Bound: []handoff.Field{{Path: "amount", Value: "1201"}}}
	for _, step := range []struct {
		what string
		got  handoff.Reason
		want handoff.Reason
	}{
		{"a forged signature", redeem(billing, raw[:len(raw)-8]+"AAAAAAAA", pay), handoff.ReasonTokenInvalid},
		{"another audience", redeem(shipping, raw, pay), handoff.ReasonAudienceMismatch},
		{"another value", redeem(billing, raw, more), handoff.ReasonFieldMismatch},
		{"the holder", redeem(billing, raw, pay), 0},
		{"the holder again", redeem(billing, raw, pay), handoff.ReasonTokenReplayed},
	} {
		if step.got != step.want {
			t.Errorf("%s: got %v, want %v", step.what, step.got, step.want)
		}
	}
}

// storeSigner is a signing key.
type storeSigner struct {
	key     handoff.Key
	private ed25519.PrivateKey
}

func (s storeSigner) Key() handoff.Key                               { return s.key }
func (s storeSigner) Signer(context.Context) (handoff.Signer, error) { return s, nil }

func (s storeSigner) Sign(_ context.Context, input []byte) ([]byte, error) {
	return ed25519.Sign(s.private, input), nil
}

// storeKeys lists one key.
type storeKeys struct{ key handoff.Key }

func (s storeKeys) Key(_ context.Context, kid string) (handoff.Key, error) {
	if kid != s.key.ID() {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return s.key, nil
}
