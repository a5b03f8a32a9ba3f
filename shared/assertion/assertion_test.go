package assertion_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/internal/prepared"
	"github.com/handoff-auth/handoff/shared/keyset"
)

const (
	shop    = "https://shop.example"
	billing = "https://billing.example"
	nightly = "c-1"
)

var now = time.Unix(1_767_225_600, 0).UTC()

// registry is the clients of one issuer.
type registry map[string]client // by kid

type client struct {
	id  string
	key handoff.Key
}

func (r registry) Client(_ context.Context, kid string) (string, handoff.Key, error) {
	c, ok := r[kid]
	if !ok {
		return "", handoff.Key{}, handoff.ErrKeyUnknown
	}
	return c.id, c.key, nil
}

// silent cannot tell whose a key is.
type silent struct{}

func (silent) Client(context.Context, string) (string, handoff.Key, error) {
	return "", handoff.Key{}, errors.New("the database is away")
}

// signer signs with a key that tests have in the open.
type signer struct{ key *forge.Key }

func (s signer) Key() handoff.Key { return s.key.Public }
func (s signer) Sign(_ context.Context, input []byte) ([]byte, error) {
	return s.key.Sign(string(input)), nil
}

func verifierAt(t testing.TB, at time.Time) *assertion.Verifier {
	t.Helper()
	v, err := assertion.NewVerifier(assertion.VerifierConfig{Audience: shop, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// good returns an assertion that is to be taken, made without the code under test.
func good(key *forge.Key) forge.Token {
	return forge.Token{
		Key:    key,
		Header: forge.Object{{Name: "alg", Value: forge.Quote(string(key.Algorithm))}, {Name: "kid", Value: forge.Quote(key.Public.ID())}, {Name: "typ", Value: `"client-authentication+jwt"`}},
		Payload: forge.Object{
			{Name: "iss", Value: forge.Quote(nightly)},
			{Name: "sub", Value: forge.Quote(nightly)},
			{Name: "aud", Value: forge.Quote(shop)},
			{Name: "iat", Value: fmt.Sprint(now.Unix())},
			{Name: "exp", Value: fmt.Sprint(now.Unix() + 60)},
			{Name: "jti", Value: forge.Quote(handoff.NewID())},
		},
	}
}

// hostile is an assertion with one defect.
type hostile struct {
	id, name string
	check    handoff.Check
	only     handoff.Algorithm // of the keys that it can be made with; empty: any
	forge    func(forge.Token) string
}

var sample = forge.NewKey(handoff.EdDSA)

// attacks returns every hostile assertion: what is done to the form, the header and the
// signature of a handoff token, and what an assertion's own claims can have wrong.
var attacks = sync.OnceValue(func() (all []hostile) {
	for _, a := range forge.Attacks() {
		switch {
		case a.Reason != handoff.ReasonTokenInvalid || strings.HasPrefix(a.Name, "a client-authentication+jwt"): // its own kind
			continue
		case a.Algorithm == "" && len(a.Forge(good(sample))) > assertion.Profile().MaxLength:
			a.Check = "token.length"
		}
		all = append(all, hostile{a.ID, a.Name, a.Check, a.Algorithm, a.Forge})
	}
	claim := func(id, name, value string, check handoff.Check) {
		all = append(all, hostile{id, fmt.Sprintf("%s %.40s", name, value), check, "", func(t forge.Token) string { return t.WithClaim(name, value).Compact() }})
	}
	for _, name := range []string{"iss", "sub", "aud", "iat", "exp", "jti"} {
		check := handoff.Check("claim." + name)
		all = append(all, hostile{"K03", "no " + name, check, "", func(t forge.Token) string { return t.WithoutClaim(name).Compact() }})
		for _, value := range []string{"null", "true", "{}", `""`, "[]", `["` + shop + `"]`, "-1", "1e3", "1.5", `" "`, `"\u0000"`, `"` + strings.Repeat("a", 256) + `"`} {
			claim("D05", name, value, check)
		}
		all = append(all, hostile{"D04", name + " twice", "payload.json", "", func(t forge.Token) string {
			t.Payload = t.Payload.Add(name, t.Payload.Get(name))
			return t.Compact()
		}})
	}
	for _, name := range []string{"nbf", "sid", "act", "cnf", "azp", "scope", "authorization_details", "client_id", ""} {
		claim("D06", name, `"x"`, "payload.members")
	}
	for _, aud := range []string{
		`["` + shop + `"]`, `["` + shop + `","` + billing + `"]`, `[]`, `{"` + shop + `":1}`,
	} {
		claim("K01", "aud", aud, "claim.aud")
	}
	for _, aud := range []string{
		billing, shop + "/", shop + "/token", shop + "/handoff.v1.HandoffService/IssueHandoff", "HTTPS://shop.example", "https://shop.example:443",
		"shop.example", "dns:///shop.example:443", nightly,
	} {
		claim("K01", "aud", forge.Quote(aud), "client.aud")
	}
	for value, check := range map[string]handoff.Check{
		`"AAAAAAAAAAAAAAAAAAAAAB"`: "claim.jti", `"AAAAAAAAAAAAAAAAAAAAA"`: "claim.jti", `"AAAAAAAAAAAAAAAAAAAAA+"`: "claim.jti", `"AAAAAAAAAAAAAAAAAAAAAA="`: "claim.jti",
	} {
		claim("D05", "jti", value, check)
	}
	claim("K03", "sub", `"c-2"`, "claim.sub")
	all = append(all, hostile{"K03", "another client's id", "client.iss", "", func(t forge.Token) string {
		return t.WithClaim("iss", `"c-2"`).WithClaim("sub", `"c-2"`).Compact()
	}})
	for offset, check := range map[int]handoff.Check{61: "client.lifetime", 3600: "client.lifetime", 0: "claim.exp", -1: "claim.exp"} {
		claim("K01", "exp", fmt.Sprint(now.Unix()+int64(offset)), check)
	}
	times := func(id, name string, iat, exp int64, check handoff.Check) {
		all = append(all, hostile{id, name, check, "", func(t forge.Token) string {
			return t.WithClaim("iat", fmt.Sprint(now.Unix()+iat)).WithClaim("exp", fmt.Sprint(now.Unix()+exp)).Compact()
		}})
	}
	times("D01", "expired this second", -60, 0, "client.exp")
	times("D01", "expired long ago", -3600, -3540, "client.exp")
	times("D03", "from the future", 6, 66, "client.iat")
	times("K01", "longer than a minute, from before", -30, 31, "client.lifetime")
	for name, payload := range map[string]string{"an empty payload object": "{}", "an array": "[]", "a string": `"a"`, "nothing else": "{} {}"} {
		check := handoff.Check("payload.json")
		if payload == "{}" {
			check = "claim.iss"
		}
		all = append(all, hostile{"D07", name, check, "", func(t forge.Token) string { return t.Text(t.Header.String(), payload) }})
	}
	return all
})

// K01, K03: every hostile assertion, and its control, by a verifier that has never met
// the key, and by one for which it has been prepared. The frozen vectors have those of RSA
// keys, which take long to make.
func TestK01K03Attacks(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []handoff.Algorithm{handoff.EdDSA, handoff.ES256, handoff.ES384} {
		for _, used := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, used %t", algorithm, used), func(t *testing.T) { hostileAssertions(t, algorithm, used) })
		}
	}
}

func hostileAssertions(t *testing.T, algorithm handoff.Algorithm, used bool) {
	key := forge.NewKey(algorithm)
	clients := registry{key.Public.ID(): {nightly, key.Public}}
	often := verifierAt(t, now)
	for range 2 * prepared.Uses {
		if _, err := often.Verify(t.Context(), good(key).Compact(), clients); err != nil {
			t.Fatal(err)
		}
	}
	take := func(raw string) error {
		v := often
		if !used {
			v = verifierAt(t, now)
		}
		_, err := v.Verify(t.Context(), raw, clients)
		return err
	}
	run := 0
	for _, a := range attacks() {
		if a.only != "" && a.only != algorithm || a.only == "" && algorithm != handoff.EdDSA {
			continue
		}
		run++
		control := good(key)
		if err := take(control.Compact()); err != nil {
			t.Fatalf("a good assertion: %v", err)
		}
		var refusal *handoff.Refusal
		err := take(a.forge(control))
		if !errors.As(err, &refusal) || refusal.Reason != handoff.ReasonClientInvalid || refusal.Check != a.check {
			t.Errorf("%s %s %s: %v, want %s", algorithm, a.id, a.name, err, a.check)
			continue
		}
		early := slices.Contains([]string{"token", "header", "key", "signature"}, strings.Split(string(a.check), ".")[0])
		if assertion.Told(refusal) == early {
			t.Errorf("%s %s: told to its caller: %t", a.id, a.name, !early)
		}
	}
	if run < map[handoff.Algorithm]int{handoff.EdDSA: 200}[algorithm] {
		t.Errorf("%s: only %d attacks", algorithm, run)
	}
}

// What Sign makes is taken until it expires, by who trusts its key and by nobody else.
func TestSign(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	clients := registry{key.Public.ID(): {nightly, key.Public}}
	sign := func() string {
		raw, err := assertion.Sign(t.Context(), signer{key}, assertion.Params{Client: nightly, Audience: shop, Now: func() time.Time { return now.Add(700 * time.Millisecond) }})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	raw := sign()
	for at, want := range map[time.Duration]handoff.Check{
		-6 * time.Second: "client.iat", -5 * time.Second: "", 0: "", 60*time.Second - 1: "", 60 * time.Second: "client.exp",
	} {
		claims, err := verifierAt(t, now.Add(at)).Verify(t.Context(), raw, clients)
		if got := checkOf(err); got != want || (err == nil) != (want == "") {
			t.Errorf("after %s: %v, want %q", at, err, want)
		}
		if err == nil && (claims.Client != nightly || claims.Audience != shop || !claims.IssuedAt.Equal(now) || !claims.Expires.Equal(now.Add(time.Minute)) || len(claims.ID) != 22) {
			t.Errorf("it says %+v", claims)
		}
	}
	if sign() == raw {
		t.Error("two calls are given one assertion")
	}
	for _, params := range []assertion.Params{{Audience: shop}, {Client: nightly}, {Client: "a b", Audience: shop}, {Client: nightly, Audience: `"`}} {
		var refused *handoff.ConfigError
		if raw, err := assertion.Sign(t.Context(), signer{key}, params); raw != "" || !errors.As(err, &refused) {
			t.Errorf("%+v: %q, %v", params, raw, err)
		}
	}
}

func checkOf(err error) handoff.Check {
	var refusal *handoff.Refusal
	if errors.As(err, &refusal) {
		return refusal.Check
	}
	return ""
}

// A registry that cannot tell refuses, and says that it is not the client's fault.
func TestClientsThatCannotTell(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	_, err := verifierAt(t, now).Verify(t.Context(), good(key).Compact(), silent{})
	if handoff.ReasonOf(err) != handoff.ReasonIssuerUnavailable {
		t.Errorf("got %v", err)
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	for field, config := range map[string]assertion.VerifierConfig{
		"assertion.VerifierConfig.Audience": {}, "assertion.VerifierConfig.Skew": {Audience: shop, Skew: -1},
	} {
		var refused *handoff.ConfigError
		if _, err := assertion.NewVerifier(config); !errors.As(err, &refused) || refused.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := assertion.NewVerifier(assertion.VerifierConfig{Audience: shop, Skew: time.Hour}); err == nil {
		t.Error("a skew of an hour is accepted")
	}
}

var update = flag.Bool("update", false, "write testdata/assertions.json again; published vectors are never changed, only added to")

const vectorFile = "testdata/assertions.json"

// vectors are assertions with what an issuer must make of each.
type vectors struct {
	Comment string                     `json:"comment"`
	Issuer  string                     `json:"issuer"`
	At      int64                      `json:"at"`      // the issuer's clock, in Unix seconds
	Keys    map[string]json.RawMessage `json:"clients"` // by the client's id, a JWK Set
	Vectors []vector                   `json:"assertions"`
}

type vector struct {
	Attack    string        `json:"attack,omitempty"`
	Name      string        `json:"name"`
	Assertion string        `json:"assertion"`
	Check     handoff.Check `json:"check,omitempty"` // empty: taken
}

// TestFrozenAssertions holds the verifier to the published vectors.
func TestFrozenAssertions(t *testing.T) {
	if *update {
		freeze(t)
	}
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	clients := registry{}
	for id, text := range v.Keys {
		set, err := keyset.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range set.Keys() {
			clients[key.ID()] = client{id, key}
		}
	}
	taken := 0
	for _, vector := range v.Vectors {
		_, err := verifierAt(t, time.Unix(v.At, 0)).Verify(t.Context(), vector.Assertion, clients)
		if vector.Check == "" {
			taken++
		}
		if got := checkOf(err); got != vector.Check || (err == nil) != (vector.Check == "") {
			t.Errorf("%s: %v, want %q", vector.Name, err, vector.Check)
		}
	}
	if taken != len(handoff.Algorithms()) || len(v.Vectors) < 60 {
		t.Errorf("%d of %d vectors are taken", taken, len(v.Vectors))
	}
}

// freeze writes a good assertion of each algorithm, and of each attack the first for each
// check.
func freeze(t *testing.T) {
	v := vectors{
		Comment: "Frozen vectors of client-authentication+jwt, see section 8 of shared/handoff/SPEC.md. One without a check is taken, once. " +
			"Every other is refused with CLIENT_INVALID; check says by what.",
		Issuer: shop, At: now.Unix(), Keys: map[string]json.RawMessage{},
	}
	var keys []handoff.Key
	seen := map[string]bool{}
	for _, algorithm := range handoff.Algorithms() {
		key := forge.NewKey(algorithm)
		keys = append(keys, key.Public)
		v.Vectors = append(v.Vectors, vector{Name: "a good assertion, " + string(algorithm), Assertion: good(key).Compact()})
		for _, a := range attacks() {
			if a.only != "" && a.only != algorithm || a.only == "" && algorithm != handoff.EdDSA {
				continue
			}
			raw := a.forge(good(key))
			if about := a.id + string(a.check) + string(a.only); len(raw) < 3000 && (!seen[about] || a.id == "K01") {
				seen[about] = true
				v.Vectors = append(v.Vectors, vector{a.id, a.name, raw, a.check})
			}
		}
	}
	set, err := keyset.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	if v.Keys[nightly], err = set.MarshalJSON(); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(v, "", " ")
	if err == nil {
		err = os.WriteFile(vectorFile, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzVerify holds that no change of a good assertion is taken, unless it says the same.
func FuzzVerify(f *testing.F) {
	key := forge.NewKey(handoff.EdDSA)
	clients := registry{key.Public.ID(): {nightly, key.Public}}
	original := good(key)
	f.Add(original.Header.String(), original.Payload.String(), true)
	for _, payload := range []string{"{}", original.Payload.Set("aud", `["`+shop+`"]`).String(), original.Payload.Add("aud", forge.Quote(shop)).String()} {
		f.Add(original.Header.String(), payload, true)
	}
	v := verifierAt(f, now)
	f.Fuzz(func(t *testing.T, header, payload string, signed bool) {
		raw := original.Text(header, payload)
		if !signed {
			parts := strings.Split(original.Compact(), ".")
			raw = forge.Encode(header) + "." + forge.Encode(payload) + "." + parts[2]
		}
		claims, err := v.Verify(context.Background(), raw, clients)
		if err != nil {
			if handoff.ReasonOf(err) != handoff.ReasonClientInvalid {
				t.Errorf("%v", err)
			}
			return
		}
		// The oracle: encoding/json, which is looser, must read the same of what is taken.
		var said struct {
			Iss, Sub, Aud, Jti string
			Iat, Exp           int64
		}
		var members map[string]any
		if err := json.Unmarshal([]byte(payload), &said); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(payload), &members); err != nil {
			t.Fatal(err)
		}
		if len(members) != 6 || said.Iss != nightly || said.Sub != nightly || said.Aud != shop || said.Jti != claims.ID ||
			said.Iat > now.Unix()+5 || said.Exp <= now.Unix() || said.Exp-said.Iat > 60 || said.Exp <= said.Iat {
			t.Errorf("%s is taken", payload)
		}
	})
}
