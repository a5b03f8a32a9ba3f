package handoff_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// A03, A10: two issuers list one RSA key, each with its own algorithm. Neither
// listing hides the other, and neither lends its algorithm to the other.
func TestA03KeyListedWithTwoAlgorithms(t *testing.T) {
	key := forge.NewKey(handoff.RS256)
	as := map[handoff.Algorithm]*forge.Key{}
	for _, algorithm := range []handoff.Algorithm{handoff.RS256, handoff.PS256} {
		public, err := handoff.NewKey(algorithm, key.Private.Public())
		if err != nil {
			t.Fatal(err)
		}
		as[algorithm] = &forge.Key{Algorithm: algorithm, Private: key.Private, Public: public}
	}
	issuers := map[string]handoff.Algorithm{"https://a.example": handoff.RS256, "https://b.example": handoff.PS256}
	sources := map[string]handoff.KeySource{}
	for issuer, algorithm := range issuers {
		sources[issuer] = keys{as[algorithm].Public}
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: sources, Store: &recorder{}, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	for issuer, listed := range issuers {
		for _, algorithm := range issuers {
			raw := forge.Good(forge.Params{
				Key: as[algorithm], Issuer: issuer, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now,
			}).Compact()
			_, err := verifier.Verify(t.Context(), raw)
			if listed == algorithm {
				if err != nil {
					t.Errorf("%s with %s: %v", issuer, algorithm, err)
				}
			} else if got := refusal(t, err); got.Check != "verify.iss" || got.Reason != handoff.ReasonIssuerMismatch {
				t.Errorf("%s, which lists %s, with %s: %v", issuer, listed, algorithm, err)
			}
		}
	}
}

// A source that cannot tell is not made up for by another that lists the key with
// another algorithm.
func TestOneOfTwoSourcesCannotTell(t *testing.T) {
	key := forge.NewKey(handoff.PS256)
	other, err := handoff.NewKey(handoff.RS256, key.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	source := &fickle{err: errors.New("no list yet")}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Store: &recorder{}, Now: func() time.Time { return now },
		Issuers: map[string]handoff.KeySource{"https://a.example": keys{other}, shop: source},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now}).Compact()
	for _, test := range []struct {
		err  error
		keys keys
		want handoff.Reason
	}{
		{source.err, nil, handoff.ReasonTrustStale},
		{nil, nil, handoff.ReasonTokenInvalid},
		{nil, keys{key.Public}, 0},
	} {
		source.err, source.keys = test.err, test.keys
		if _, err := verifier.Verify(t.Context(), raw); handoff.ReasonOf(err) != test.want {
			t.Errorf("%v with %d keys: %v, want %s", test.err, len(test.keys), err, test.want)
		}
	}
}

// A source that answers with another key than it was asked for is not believed.
func TestOpenKeySourceThatErrs(t *testing.T) {
	good, other := forge.NewKey(handoff.EdDSA), forge.NewKey(handoff.EdDSA)
	raw := forge.Good(forge.Params{Key: good, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now}).Compact()
	for _, test := range []struct {
		name   string
		source keyFunc
		check  handoff.Check
	}{
		{"the control", func(string) (handoff.Key, error) { return good.Public, nil }, ""},
		{"another key", func(string) (handoff.Key, error) { return other.Public, nil }, "key.unknown"},
		{"the zero key", func(string) (handoff.Key, error) { return handoff.Key{}, nil }, "key.unknown"},
		{"unknown", func(string) (handoff.Key, error) { return handoff.Key{}, handoff.ErrKeyUnknown }, "key.unknown"},
		{"unknown, with the key", func(string) (handoff.Key, error) { return good.Public, handoff.ErrKeyUnknown }, "key.unknown"},
		{"an error, with the key", func(string) (handoff.Key, error) { return good.Public, errors.New("stale") }, "verify.trust"},
	} {
		payload, key, err := handoff.KindHandoff.Profile().Open(t.Context(), raw, test.source)
		if test.check == "" {
			if err != nil || key.ID() != good.Public.ID() || payload == "" {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if got := refusal(t, err); got.Check != test.check || payload != "" || key.ID() != "" {
			t.Errorf("%s: refused by %s, want %s", test.name, got.Check, test.check)
		}
	}
}

type keyFunc func(kid string) (handoff.Key, error)

func (f keyFunc) Key(_ context.Context, kid string) (handoff.Key, error) { return f(kid) }

// A16: a profile that somebody forgot to fill in accepts no token, not one
// without a typ.
func TestA16ProfileWithoutTyp(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	good := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now})
	for _, token := range []forge.Token{good, good.WithHeader("typ", `""`), {Header: good.Header.Without("typ"), Payload: good.Payload, Key: key}} {
		for _, profile := range []handoff.Profile{{}, {MaxLength: 4096}} {
			if raw, err := profile.Seal(t.Context(), []byte("{}"), signer{key}); err == nil {
				t.Errorf("%v seals %q", profile, raw)
			}
			if _, _, err := profile.Open(t.Context(), token.Compact(), keys{key.Public}); handoff.ReasonOf(err) != handoff.ReasonTokenInvalid {
				t.Errorf("%v opens a token: %v", profile, err)
			}
		}
	}
}

// A typ that JSON would have to escape, or could not hold, opens nothing, by
// whichever way its header is read.
func TestA16TypThatIsNoName(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	good := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now})
	for _, typ := range []string{"a\nb", "a\x80b", `a"b`, `a\b`, "a b"} {
		profile := handoff.Profile{Typ: typ, MaxLength: 4096}
		raw := good.Text(`{"alg":"EdDSA","kid":"`+key.Public.ID()+`","typ":"`+typ+`"}`, good.Payload.String())
		if _, _, err := profile.Open(t.Context(), raw, keys{key.Public}); handoff.ReasonOf(err) != handoff.ReasonTokenInvalid {
			t.Errorf("%q opens: %v", typ, err)
		}
		if raw, err := profile.Seal(t.Context(), []byte("{}"), signer{key}); err == nil {
			t.Errorf("%q seals %q", typ, raw)
		}
	}
}

// B09: of a header, 2048 encoded bytes are read and not one more.
func TestB09LongHeader(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	good := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now})
	header := good.Header.String()
	for _, test := range []struct {
		bytes int
		want  handoff.Check
	}{{1536, ""}, {1537, "token.length"}} {
		long := header + strings.Repeat(" ", test.bytes-len(header))
		raw := good.Text(long, good.Payload.String())
		_, _, err := handoff.KindHandoff.Profile().Open(t.Context(), raw, keys{key.Public})
		if test.want == "" && err != nil || test.want != "" && refusal(t, err).Check != test.want {
			t.Errorf("a header of %d bytes: %v, want %q", test.bytes, err, test.want)
		}
	}
}

// B09: of a token, 4096 bytes are read and not one more.
func TestB09LongestToken(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	good := b.good()
	lengths := map[int]bool{}
	for header := range 3 {
		for payload := range 3000 {
			input := forge.Encode(good.Header.String()+strings.Repeat(" ", header)) + "." + forge.Encode(good.Payload.String()+strings.Repeat(" ", payload))
			if with := len(input) + 87; with < 4095 || with > 4098 { // a dot and a signature of 64 bytes
				continue
			}
			raw := good.Signed(input)
			lengths[len(raw)] = true
			_, err := b.verifier.Verify(t.Context(), raw)
			if len(raw) <= 4096 && err != nil || len(raw) > 4096 && refusal(t, err).Check != "token.length" {
				t.Errorf("a token of %d bytes: %v", len(raw), err)
			}
		}
	}
	if !lengths[4096] || !lengths[4097] {
		t.Errorf("tried %v", lengths)
	}
}
