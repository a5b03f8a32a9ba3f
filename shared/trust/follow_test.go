package trust

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// Lists with one defect each. Their control is the list that they were made from.
func hostileLists(trustKey, signingKey *forge.Key, now time.Time) []struct {
	name  string
	forge func(forge.Token) string
	fault Fault
	check handoff.Check
} {
	claim := func(name, value string) func(forge.Token) string {
		return func(t forge.Token) string { return t.WithClaim(name, value).Compact() }
	}
	at := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).Unix(), 10) }
	times := func(iat, exp time.Duration) func(forge.Token) string {
		return func(t forge.Token) string { return t.WithClaim("iat", at(iat)).WithClaim("exp", at(exp)).Compact() }
	}
	other := forge.NewKey(handoff.EdDSA)
	by := func(key *forge.Key) func(forge.Token) string {
		return func(t forge.Token) string {
			t.Key = key
			return t.WithHeader("kid", forge.Quote(key.Public.ID())).Compact()
		}
	}
	garbage := strings.Repeat("A", 10<<20)
	return []struct {
		name  string
		forge func(forge.Token) string
		fault Fault
		check handoff.Check
	}{
		{"empty", func(forge.Token) string { return "" }, FaultSignature, "token.parts"},
		{"truncated", func(t forge.Token) string { c := t.Compact(); return c[:len(c)*2/3] }, FaultSignature, "token.parts"},
		{"truncated in the signature", func(t forge.Token) string { c := t.Compact(); return c[:len(c)-6] }, FaultSignature, "signature"},
		{"tampered with", func(t forge.Token) string {
			_, _, signature := t.Parts()
			header, payload, _ := t.WithClaim("exp", at(time.Hour)).Parts()
			return header + "." + payload + "." + signature
		}, FaultSignature, "signature"},
		{"10 MB of garbage", func(forge.Token) string { return garbage }, FaultSignature, "token.length"},
		{"10 MB of dots", func(forge.Token) string { return strings.Repeat(".", 10<<20) }, FaultSignature, "token.length"},
		{"10 MB of header", func(forge.Token) string { return garbage + ".AAAA.AAAA" }, FaultSignature, "token.length"},
		{"10 MB of payload", func(t forge.Token) string { return forge.Encode(t.Header.String()) + "." + garbage + ".AAAA" }, FaultSignature, "token.length"},
		{"100 kB of header", func(forge.Token) string { return garbage[:100<<10] + ".AAAA.AAAA" }, FaultSignature, "token.parts"},
		{"100 kB signed", claim("iss", `"`+garbage[:80<<10]+`"`), FaultSchema, ""},
		{"other entries", claim("revoked_sha256", digestOf("other")), FaultEntries, ""},
		{"entries in another spelling", claim("revoked_sha256", digestOf(noEntries+" ")), FaultEntries, ""},
		{"HTML", func(forge.Token) string { return "<!doctype html><title>502 Bad Gateway</title>" }, FaultSignature, "token.parts"},
		{"unsigned", func(t forge.Token) string { return t.WithHeader("alg", `"none"`).Compact() }, FaultSignature, "header.alg"},
		{"its key inside", func(t forge.Token) string { return t.WithHeader("jwk", "{}").Compact() }, FaultSignature, "header.members"},
		{"a handoff token's typ", func(t forge.Token) string { return t.WithHeader("typ", `"handoff+jwt"`).Compact() }, FaultSignature, "header.typ"},
		{"signed by a handoff signing key", by(signingKey), FaultSignature, "key.unknown"},
		{"signed by a stranger", by(other), FaultSignature, "key.unknown"},
		{"signed by a stranger in the trust key's name", func(t forge.Token) string {
			t.Key = other
			return t.Compact()
		}, FaultSignature, "signature"},
		{"foreign", claim("iss", `"https://other.example"`), FaultIssuer, ""},
		{"foreign by a slash", claim("iss", `"`+issuer+`/"`), FaultIssuer, ""},
		{"expired", times(-120*time.Second, -60*time.Second), FaultExpired, ""},
		{"expired this second", times(-60*time.Second, 0), FaultExpired, ""},
		{"too old", times(-10*time.Second, 50*time.Second), FaultStale, ""},
		{"iat far ahead", times(6*time.Second, 66*time.Second), FaultFuture, ""},
		{"iat next year", times(365*24*time.Hour, 365*24*time.Hour+time.Minute), FaultFuture, ""},
		{"seq far ahead", claim("seq", strconv.FormatInt(now.Add(6*time.Second).UnixMilli(), 10)), FaultFuture, ""},
		{"seq at the end of numbers", claim("seq", "9007199254740991"), FaultFuture, ""},
		{"rolled back", claim("seq", strconv.FormatInt(now.Add(-time.Second).UnixMilli(), 10)), FaultRolledBack, ""},
		{"the same seq with other content", func(t forge.Token) string {
			return numbered(t.WithClaim("exp", at(30*time.Second)), now.Add(-time.Millisecond).UnixMilli()).Compact()
		}, FaultRolledBack, ""},
		{"the trust key as a signing key", func(t forge.Token) string {
			text, _ := jwks([]handoff.Key{signingKey.Public, trustKey.Public})
			return t.WithClaim("keys", string(text)).Compact()
		}, FaultKeys, ""},
	}
}

// F09, and what issue 4 lists: the last good list stays.
func TestF09BadListsReplaceNothing(t *testing.T) {
	trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
	c := newClock()
	for _, hostile := range hostileLists(trustKey, key.key, c.Now()) {
		t.Run(hostile.name, func(t *testing.T) {
			f := newFollower(t, trustKey.Public, c.Now)
			good := goodList(trustKey, c.Now(), key.Key())
			inForce := numbered(good, c.Now().UnixMilli()-1).Compact()
			if newer, err := f.take(t.Context(), inForce); err != nil || !newer {
				t.Fatalf("the list before: %v %v", newer, err)
			}
			text := hostile.forge(good)
			switch hostile.name {
			case "other entries":
				text += "\n" + noEntries
			case "entries in another spelling":
				text += "\n" + noEntries + " "
			}
			_, err := f.take(t.Context(), text)
			var refused *listError
			if !errors.As(err, &refused) || refused.fault != hostile.fault || refused.check != hostile.check {
				t.Errorf("refused with %#v, want %s %s", err, hostile.fault, hostile.check)
			}
			if _, err := f.Key(t.Context(), key.Key().ID()); err != nil || f.Status().Seq != c.Now().UnixMilli()-1 {
				t.Errorf("the last good list does not stand: %v, %+v", err, f.Status())
			}
			if newer, err := f.take(t.Context(), good.Compact()); err != nil || !newer {
				t.Errorf("control: %v %v", newer, err)
			}
			if newer, err := f.take(t.Context(), good.Compact()); err != nil || newer {
				t.Errorf("the same again: %v %v", newer, err)
			}
		})
	}
}

// F09: what is long and plainly no list costs a look at it, and no copy.
func TestF09GarbageIsCheap(t *testing.T) {
	trustKey, c := forge.NewKey(handoff.EdDSA), newClock()
	f := newFollower(t, trustKey.Public, c.Now)
	good := goodList(trustKey, c.Now(), newSigner().Key())
	for _, hostile := range hostileLists(trustKey, newSigner().key, c.Now()) {
		switch hostile.name {
		case "10 MB of garbage", "10 MB of dots", "10 MB of header", "100 kB of header":
		default:
			continue
		}
		raw := hostile.forge(good)
		if n := testing.AllocsPerRun(5, func() { _, _ = f.take(t.Context(), raw) }); n > 5 {
			t.Errorf("%s: %v allocations", hostile.name, n)
		}
	}
}

// The forms that a JWS can be attacked by are the same as a handoff token's, other
// than that which gives it this kind's typ.
func TestHostileFormsAreRefused(t *testing.T) {
	trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
	c := newClock()
	f := newFollower(t, trustKey.Public, c.Now)
	tried := 0
	for _, attack := range forge.Attacks() {
		if attack.ID == "A17" || attack.Reason != handoff.ReasonTokenInvalid || attack.Algorithm != "" && attack.Algorithm != handoff.EdDSA {
			continue
		}
		tried++
		raw := attack.Forge(goodList(trustKey, c.Now(), key.Key()))
		if _, _, err := f.apply(t.Context(), raw, Given("")); err == nil {
			t.Errorf("%s %s is accepted", attack.ID, attack.Name)
		}
	}
	if tried < 50 {
		t.Errorf("only %d forms", tried)
	}
	if _, err := f.take(t.Context(), goodList(trustKey, c.Now(), key.Key()).Compact()); err != nil {
		t.Errorf("control: %v", err)
	}
}

// A17: neither kind of JWT passes for the other, even where one key signed both.
func TestA17ListsAndTokensAreNotEachOther(t *testing.T) {
	c, key := newClock(), newSigner()
	f := newFollower(t, key.Key(), c.Now)
	raw, _ := issue(t, key, c.Now, "ann", "")
	var refused *listError
	if _, err := f.take(t.Context(), raw); !errors.As(err, &refused) || refused.check != "header.typ" {
		t.Errorf("a handoff token as a list: %v", err)
	}
	list := goodList(key.key, c.Now(), newSigner().Key()).Compact()
	v := newVerifier(t, onlyKey{key.Key()}, c.Now)
	_, err := v.Verify(t.Context(), list)
	var refusal *handoff.Refusal
	if !errors.As(err, &refusal) || refusal.Check != "header.typ" {
		t.Errorf("a list as a handoff token: %v", err)
	}
	verified(t, v, raw, 0)
	if _, err := f.take(t.Context(), list); err != nil {
		t.Errorf("control: %v", err)
	}
}

type onlyKey struct{ key handoff.Key }

func (o onlyKey) Key(_ context.Context, kid string) (handoff.Key, error) {
	if kid != o.key.ID() {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return o.key, nil
}

// The trust key itself changes while two are pinned; seq goes on.
func TestTwoTrustKeys(t *testing.T) {
	c, key := newClock(), newSigner()
	old, young, third := forge.NewKey(handoff.EdDSA), forge.NewKey(handoff.EdDSA), forge.NewKey(handoff.EdDSA)
	f, err := NewFollower(FollowerConfig{
		Issuer: issuer, TrustKeys: []handoff.Key{old.Public, young.Public}, Feed: noFeed{}, Now: c.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		by    *forge.Key
		seq   int64
		fault Fault
	}{
		{old, 10, ""},
		{young, 9, FaultRolledBack},
		{young, 11, ""},
		{old, 12, ""},
		{third, 13, FaultSignature},
	} {
		list := goodList(step.by, c.Now(), key.Key())
		_, err := f.take(t.Context(), numbered(list, c.Now().UnixMilli()-100+step.seq).Compact())
		var refused *listError
		errors.As(err, &refused)
		if (err == nil) != (step.fault == "") || refused != nil && refused.fault != step.fault {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

// F03: what the follower cannot know, it refuses.
func TestF03StaleListsAreNotReliedOn(t *testing.T) {
	trustKey, key, c := forge.NewKey(handoff.EdDSA), newSigner(), newClock()
	f := newFollower(t, trustKey.Public, c.Now)
	v := newVerifier(t, f, c.Now)
	raw, _ := issue(t, key, c.Now, "ann", "")
	verified(t, v, raw, handoff.ReasonTrustStale)
	if f.Healthy() == nil {
		t.Error("healthy without a list")
	}

	if _, err := f.take(t.Context(), goodList(trustKey, c.Now(), key.Key()).Compact()); err != nil {
		t.Fatal(err)
	}
	verified(t, v, raw, 0)
	c.advance(10*time.Second - time.Nanosecond)
	verified(t, v, raw, 0)
	c.advance(time.Nanosecond)
	verified(t, v, raw, handoff.ReasonTrustStale)
	if f.Healthy() == nil {
		t.Error("healthy with a stale list")
	}
	if _, err := f.take(t.Context(), goodList(trustKey, c.Now(), key.Key()).Compact()); err != nil {
		t.Fatal(err)
	}
	verified(t, v, raw, 0)

	// An age counts from iat, not from receipt; and no list outlives its exp.
	c.advance(10 * time.Second)
	late := goodList(trustKey, c.Now().Add(-7*time.Second), key.Key())
	if _, err := f.take(t.Context(), numbered(late, c.Now().UnixMilli()).Compact()); err != nil {
		t.Fatal(err)
	}
	c.advance(3*time.Second - 1)
	verified(t, v, raw, 0)
	c.advance(1)
	verified(t, v, raw, handoff.ReasonTrustStale)
	short := goodList(trustKey, c.Now(), key.Key())
	short = short.WithClaim("exp", strconv.FormatInt(c.Now().Unix()+2, 10))
	if _, err := f.take(t.Context(), short.Compact()); err != nil {
		t.Fatal(err)
	}
	c.advance(2*time.Second - 1)
	verified(t, v, raw, 0)
	c.advance(1)
	verified(t, v, raw, handoff.ReasonTrustStale)
}

// F01: no change of the clock makes a list younger.
func TestF01ClockChanges(t *testing.T) {
	trustKey, key, c := forge.NewKey(handoff.EdDSA), newSigner(), newClock()
	for _, step := range []struct {
		by   time.Duration
		want error
	}{
		{time.Second, nil},
		{-time.Second, nil},
		{-5 * time.Second, nil}, // clocks may differ so much
		{-5*time.Second - 1, errClockBack},
		{-24 * time.Hour, errClockBack},
		{24 * time.Hour, errStale},
	} {
		f := newFollower(t, trustKey.Public, c.Now)
		if _, err := f.take(t.Context(), goodList(trustKey, c.Now(), key.Key()).Compact()); err != nil {
			t.Fatal(err)
		}
		c.advance(step.by)
		if err := f.Healthy(); !errors.Is(err, step.want) {
			t.Errorf("after a step of %s: %v, want %v", step.by, err, step.want)
		}
		c.advance(-step.by)
	}
}

// F01: while the wall clock stands still or goes back, the monotonic one counts.
func TestF01MonotonicTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
		f := newFollower(t, trustKey.Public, time.Now)
		if _, err := f.take(t.Context(), goodList(trustKey, time.Now(), key.Key()).Compact()); err != nil {
			t.Fatal(err)
		}
		s := *f.current.Load()
		s.end = s.end.Add(time.Hour) // as if the wall clock had gone back an hour
		f.current.Store(&s)
		time.Sleep(10*time.Second - 1)
		if err := f.Healthy(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Nanosecond)
		if err := f.Healthy(); !errors.Is(err, errStale) {
			t.Errorf("after 10 s: %v", err)
		}
	})
}

// F08: tokens that name unknown keys cause nothing but their refusal.
func TestF08NoTokenCausesAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		fetches := 0
		f, err := NewFollower(FollowerConfig{
			Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Public},
			Feed: feed(func(ctx context.Context, deliver func(string, Fetch) error) error {
				fetches++
				if err := deliver(goodList(trustKey, time.Now(), key.Key()).Compact(), Given("")); err != nil {
					return err
				}
				<-ctx.Done()
				return ctx.Err()
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		go f.Run(ctx)
		synctest.Wait()
		v := newVerifier(t, f, time.Now)
		stranger := newSigner()
		raw, _ := issue(t, stranger, time.Now, "ann", "")
		for range 1000 {
			verified(t, v, raw, handoff.ReasonTokenInvalid)
		}
		synctest.Wait()
		if fetches != 1 {
			t.Errorf("%d fetches", fetches)
		}
		cancel()
		synctest.Wait()
	})
}

func TestNewFollowerRefuses(t *testing.T) {
	key, other, third := newSigner().Key(), newSigner().Key(), newSigner().Key()
	good := FollowerConfig{Issuer: issuer, TrustKeys: []handoff.Key{key}, Feed: noFeed{}}
	for name, change := range map[string]func(*FollowerConfig){
		"Issuer":            func(c *FollowerConfig) { c.Issuer = "" },
		"TrustKeys":         func(c *FollowerConfig) { c.TrustKeys = nil },
		"TrustKeys: three":  func(c *FollowerConfig) { c.TrustKeys = []handoff.Key{key, other, third} },
		"TrustKeys: zero":   func(c *FollowerConfig) { c.TrustKeys = []handoff.Key{{}} },
		"TrustKeys: twice":  func(c *FollowerConfig) { c.TrustKeys = []handoff.Key{key, key} },
		"Feed":              func(c *FollowerConfig) { c.Feed = nil },
		"MaxStaleness":      func(c *FollowerConfig) { c.MaxStaleness = time.Millisecond },
		"MaxStaleness: day": func(c *FollowerConfig) { c.MaxStaleness = 25 * time.Hour },
		"Skew":              func(c *FollowerConfig) { c.Skew = 2 * time.Minute },
	} {
		config := good
		change(&config)
		field, _, _ := strings.Cut(name, ":")
		if _, err := NewFollower(config); refusedField(err) != "trust.FollowerConfig."+field {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewFollower(good); err != nil {
		t.Errorf("control: %v", err)
	}
}
