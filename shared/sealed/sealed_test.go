package sealed_test

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	mathrand "math/rand/v2"
	"os"
	"path"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/internal/vectors"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/signkey"
)

func newUnsealKey(t testing.TB) sealed.PrivateKey {
	t.Helper()
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sealed.NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const (
	shop    = "https://shop.example"
	billing = "https://billing.example"
)

var now = time.Unix(1_700_000_000, 0)

var operation = handoff.Operation{Method: "/billing.v1.Billing/Pay", Bound: []handoff.Field{{Path: "invoice_id", Value: "INV-42"}}}

// bench is an issuer's key and an audience.
type bench struct {
	key      *forge.Key
	verifier *handoff.Verifier
}

func newBench(t testing.TB, unseal func(string) (string, error)) *bench {
	t.Helper()
	b := &bench{key: forge.NewKey(handoff.EdDSA)}
	keys, err := keyset.New(b.key.Public)
	if err != nil {
		t.Fatal(err)
	}
	b.verifier, err = handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{shop: keys}, Store: everything{}, Now: clock, Unseal: unseal,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type everything struct{}

func (everything) Redeem(context.Context, handoff.Redemption) error { return nil }

func clock() time.Time { return now }

func (b *bench) good() forge.Token {
	return forge.Good(forge.Params{
		Key: b.key, Issuer: shop, Audience: billing, Subject: "u-1", Session: handoff.NewID(), Operation: operation, IssuedAt: now,
	})
}

func refusal(t testing.TB, err error) *handoff.Refusal {
	t.Helper()
	refusal, ok := errors.AsType[*handoff.Refusal](err)
	if !ok {
		t.Fatalf("not refused: %v", err)
	}
	return refusal
}

func opener(t testing.TB, keys ...sealed.PrivateKey) func(string) (string, error) {
	t.Helper()
	o, err := sealed.NewOpener(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return o.Unseal
}

// sealedBench is a bench whose verifier opens what is sealed to the key.
func sealedBench(t testing.TB) (*bench, sealed.PrivateKey) {
	t.Helper()
	key := newUnsealKey(t)
	return newBench(t, opener(t, newUnsealKey(t), key)), key
}

func seal(t testing.TB, key sealed.PrivateKey, raw string) string {
	t.Helper()
	out, err := key.Public().Seal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A sealed token is what it holds, and nothing of that can be read in it. A method
// that demands it takes no other; a method that does not takes both.
func TestSealed(t *testing.T) {
	b, key := sealedBench(t)
	for _, isSealed := range []bool{true, false} {
		for _, demanded := range []bool{true, false} {
			raw := b.good().Compact()
			if isSealed {
				raw = seal(t, key, raw)
			}
			if sealed.Is(raw) != isSealed {
				t.Errorf("sealed %t: Is says otherwise", isSealed)
			}
			verified, err := b.verifier.Verify(t.Context(), raw)
			if err != nil {
				t.Fatalf("sealed %t: %v", isSealed, err)
			}
			_, err = b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{Sealed: demanded})
			if want := demanded && !isSealed; want != (handoff.ReasonOf(err) == handoff.ReasonTokenNotSealed) || !want && err != nil {
				t.Errorf("sealed %t, demanded %t: %v", isSealed, demanded, err)
			}
		}
	}
	raw := seal(t, key, b.good().Compact())
	for part := range strings.SplitSeq(raw, ".") {
		if text, _ := base64.RawURLEncoding.DecodeString(part); strings.Contains(string(text), "INV-42") || strings.Contains(string(text), "u-1") {
			t.Error("a part can be read")
		}
	}
	if text := fmt.Sprintf("%v %+v %#v %s %d", key, key, key, key, key); strings.Count(text, key.Public().ID()) != 5 || len(text) > 5*60 {
		t.Errorf("a key prints as %s", text)
	}
}

// Issue keeps to the rule: a token for a method that demands it is sealed, or there
// is none.
func TestIssueSealed(t *testing.T) {
	b, key := sealedBench(t)
	signing, err := signkey.New(handoff.EdDSA, b.key.Private)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: shop, Key: signing, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	params := handoff.IssueParams{Audience: billing, Subject: "u-1", Operation: operation}
	params.Operation.Sealed = true
	if raw, _, err := issuer.Issue(t.Context(), params); err == nil || raw != "" || !strings.Contains(err.Error(), "IssueParams.Seal") {
		t.Errorf("without a key: %v", err)
	}
	params.Seal = key.Public().Seal
	raw, claims, err := issuer.Issue(t.Context(), params)
	if err != nil || !sealed.Is(raw) {
		t.Fatalf("%v: %s", err, raw)
	}
	verified, err := b.verifier.Verify(t.Context(), raw)
	if err != nil || verified.Claims().ID != claims.ID {
		t.Errorf("%v", err)
	}
}

// reseal makes a JWE with header members of the test's choice.
func reseal(t testing.TB, to *ecdsa.PublicKey, alg jose.KeyAlgorithm, enc jose.ContentEncryption, kid, typ, cty, inner string, more map[jose.HeaderKey]any, zip bool) string {
	t.Helper()
	options := &jose.EncrypterOptions{ExtraHeaders: more}
	if typ != "" {
		options.WithType(jose.ContentType(typ))
	}
	if cty != "" {
		options.WithContentType(jose.ContentType(cty))
	}
	if zip {
		options.Compression = jose.DEFLATE
	}
	encrypter, err := jose.NewEncrypter(enc, jose.Recipient{Algorithm: alg, Key: to, KeyID: kid}, options)
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := encrypter.Encrypt([]byte(inner))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwe.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// B13, B14, B15, B16: what JWE allows and the profile does not, and what is wrong
// inside: one answer, with the check for the log.
func TestB13B14B15B16Sealed(t *testing.T) {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sealed.NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	to, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), private.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, opener(t, key))
	const typ, cty, alg, enc = "handoff-sealed+jwt", "handoff+jwt", jose.ECDH_ES, jose.A256GCM
	kid, good := key.Public().ID(), b.good().Compact()
	control := reseal(t, to, alg, enc, kid, typ, cty, good, nil, false)
	if _, err := b.verifier.Verify(t.Context(), control); err != nil {
		t.Fatalf("the control: %v", err)
	}
	parts := strings.Split(control, ".")
	with := func(i int, part string) string {
		changed := append([]string{}, parts...)
		changed[i] = part
		return strings.Join(changed, ".")
	}
	header := func(old, new string) string {
		text, _ := base64.RawURLEncoding.DecodeString(parts[0])
		changed := strings.Replace(string(text), old, new, 1)
		if changed == string(text) {
			t.Fatalf("the header has no %s: %s", old, text)
		}
		return with(0, base64.RawURLEncoding.EncodeToString([]byte(changed)))
	}
	var ephemeral struct{ Epk struct{ X, Y string } }
	text, _ := base64.RawURLEncoding.DecodeString(parts[0])
	if err := json.Unmarshal(text, &ephemeral); err != nil {
		t.Fatal(err)
	}
	x, y := ephemeral.Epk.X, ephemeral.Epk.Y
	none := "eyJhbGciOiJub25lIn0.e30."
	for what, test := range map[string]struct {
		raw   string
		check handoff.Check
	}{
		"B13: zip":                            {reseal(t, to, alg, enc, kid, typ, cty, good, nil, true), "sealed.header"},
		"B14: p2c":                            {header(`{`, `{"p2c":1000000000,`), "sealed.header"},
		"B14: PBES2":                          {header(`"ECDH-ES"`, `"PBES2-HS256+A128KW"`), "sealed.header"},
		"B15: an encrypted key":               {with(1, "AAAA"), "sealed.parts"},
		"B15: a point off the curve":          {header(`"x":"`+x, `"x":"`+y), "sealed.open"},
		"B15: the point at zero":              {header(`"x":"`+x+`","y":"`+y, `"x":"`+strings.Repeat("A", 43)+`","y":"`+strings.Repeat("A", 43)), "sealed.open"},
		"B15: ECDH-ES+A256KW":                 {reseal(t, to, jose.ECDH_ES_A256KW, enc, kid, typ, cty, good, nil, false), "sealed.parts"},
		"B15: A128GCM":                        {reseal(t, to, alg, jose.A128GCM, kid, typ, cty, good, nil, false), "sealed.header"},
		"B15: A128CBC-HS256":                  {reseal(t, to, alg, jose.A128CBC_HS256, kid, typ, cty, good, nil, false), "sealed.base64url"},
		"B15: RSA1_5":                         {header(`"ECDH-ES"`, `"RSA1_5"`), "sealed.header"},
		"B15: dir":                            {header(`"ECDH-ES"`, `"dir"`), "sealed.header"},
		"B15: P-384":                          {header(`"P-256"`, `"P-384"`), "sealed.header"},
		"B15: apu":                            {header(`{`, `{"apu":"QQ",`), "sealed.header"},
		"B15: a private epk":                  {header(`"kty"`, `"d":"`+x+`","kty"`), "sealed.header"},
		"B15: epk twice":                      {header(`{`, `{"epk":{"kty":"EC","crv":"P-256","x":"`+x+`","y":"`+y+`"},`), "sealed.header"},
		"B15: another tag":                    {with(4, strings.Repeat("A", 22)), "sealed.open"},
		"B15: a short tag":                    {with(4, parts[4][:16]), "sealed.base64url"},
		"B15: another nonce":                  {with(2, strings.Repeat("A", 16)), "sealed.open"},
		"B15: a long nonce":                   {with(2, strings.Repeat("A", 20)), "sealed.base64url"},
		"B15: no ciphertext":                  {with(3, ""), "sealed.parts"},
		"B15: a spelled-out header":           {header(`{`, "{ "), "sealed.open"}, // the header is authenticated
		"B15: trailing bits":                  {control[:len(control)-1] + "B", "sealed.base64url"},
		"B16: unsigned":                       {reseal(t, to, alg, enc, kid, typ, cty, none, nil, false), "token.parts"},
		"B16: a JWE":                          {reseal(t, to, alg, enc, kid, typ, cty, control, nil, false), "sealed.inner"},
		"B16: nothing":                        {reseal(t, to, alg, enc, kid, typ, cty, "", nil, false), "sealed.parts"},
		"B16: a forged signature":             {reseal(t, to, alg, enc, kid, typ, cty, good[:len(good)-8]+"AAAAAAAA", nil, false), "signature"},
		"no typ":                              {reseal(t, to, alg, enc, kid, "", cty, good, nil, false), "sealed.header"},
		"A16: typ of a handoff token":         {reseal(t, to, alg, enc, kid, cty, cty, good, nil, false), "sealed.header"},
		"no cty":                              {reseal(t, to, alg, enc, kid, typ, "", good, nil, false), "sealed.header"},
		"cty JWT":                             {reseal(t, to, alg, enc, kid, typ, "JWT", good, nil, false), "sealed.header"},
		"no kid":                              {reseal(t, to, alg, enc, "", typ, cty, good, nil, false), "sealed.header"},
		"another kid":                         {reseal(t, to, alg, enc, newUnsealKey(t).Public().ID(), typ, cty, good, nil, false), "sealed.key"},
		"A12: crit":                           {reseal(t, to, alg, enc, kid, typ, cty, good, map[jose.HeaderKey]any{"crit": []string{"x"}, "x": 1}, false), "sealed.header"},
		"A05: jwk":                            {reseal(t, to, alg, enc, kid, typ, cty, good, map[jose.HeaderKey]any{"jwk": 1}, false), "sealed.header"},
		"B09: too long":                       {control + strings.Repeat("A", 8192), "token.parts"}, // not even taken for sealed
		"B09: a long header":                  {header(`{`, `{"x":"`+strings.Repeat("A", 1024)+`",`), "token.length"},
		"B07: six parts":                      {control + ".", "token.parts"},
		"B08: JSON":                           {`{"protected":"` + parts[0] + `"}`, "token.parts"},
		"B05: a line feed":                    {control + "\n", "sealed.base64url"},
		"sealed to another audience, our kid": {reseal(t, &newECDSA(t).PublicKey, alg, enc, kid, typ, cty, good, nil, false), "sealed.open"},
		"B02: a member twice, by escapes":     {header(`{`, `{"\u0061lg":"ECDH-ES",`), "sealed.header"},
		"B03: a member in other letters":      {header(`"alg"`, `"ALG"`), "sealed.header"},
		"B11: text that is not UTF-8":         {with(0, base64.RawURLEncoding.EncodeToString([]byte("{\"alg\":\"\xff\"}"))), "sealed.header"},
		"B12: behind the header":              {header(`+jwt"}`, `+jwt"}{}`), "sealed.header"},
		"header is a string":                  {with(0, "IkEi"), "sealed.header"},
		"the visit's typ":                     {reseal(t, to, alg, enc, kid, "handoff-visit+jwt", cty, good, nil, false), "sealed.header"},
	} {
		_, err := b.verifier.Verify(t.Context(), test.raw)
		if got := refusal(t, err); got.Reason != handoff.ReasonTokenInvalid || got.Check != test.check && !(what == "B09: too long" && got.Check == "token.length") {
			t.Errorf("%s: %v, want %s", what, err, test.check)
		}
		if strings.Contains(err.Error(), "go-jose") {
			t.Errorf("%s: the error is another library's: %v", what, err)
		}
	}
	if _, err := newBench(t, nil).verifier.Verify(t.Context(), control); refusal(t, err).Check != "token.parts" {
		t.Errorf("a verifier without a key: %v", err)
	}
}

// Each hostile sealed token that the project publishes, and its control.
func TestSealedAttacks(t *testing.T) {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sealed.NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	to := forge.NewRecipient(private.PublicKey())
	if to.ID != key.Public().ID() {
		t.Fatalf("the thumbprint is %s, or %s", to.ID, key.Public().ID())
	}
	b := newBench(t, opener(t, newUnsealKey(t), key))
	for _, attack := range forge.SealedAttacks() {
		good := b.good().Compact()
		if _, err := b.verifier.Verify(t.Context(), forge.Seal(to).Around(good)); err != nil {
			t.Fatalf("%s: the control is refused: %v", attack.Name, err)
		}
		_, err := b.verifier.Verify(t.Context(), attack.Forge(to, good))
		if got := refusal(t, err); got.Reason != handoff.ReasonTokenInvalid || got.Check != attack.Check || got.Claims != nil {
			t.Errorf("%s %s: %v, want %s", attack.ID, attack.Name, err, attack.Check)
		}
	}
}

func newECDSA(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// B15: Wycheproof's and the cookbook's JWEs, ECDH-ES among them, are outside the
// profile, and each is refused before it costs anything.
func TestB15OthersJWEs(t *testing.T) {
	key := newUnsealKey(t)
	seen := 0
	refuse := func(name, raw string) {
		if strings.Count(raw, ".") != 4 {
			return
		}
		seen++
		_, err := opener(t, key)(raw)
		if got := refusal(t, err); got.Check == "sealed.open" || got.Check == "sealed.inner" {
			t.Errorf("%s came as far as %s", name, got.Check)
		}
	}
	var file struct {
		TestGroups []struct {
			Tests []struct {
				TcID int
				JWE  string
			}
		}
	}
	if err := json.Unmarshal(vectors.Read(t, "wycheproof/json_web_encryption_test.json"), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.TestGroups {
		for _, test := range group.Tests {
			refuse(fmt.Sprintf("wycheproof %d", test.TcID), test.JWE)
		}
	}
	root := os.DirFS(path.Join(vectors.Dir(t), "ietf-cookbook"))
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".json") {
			return err
		}
		var example struct{ Output struct{ Compact string } }
		if json.Unmarshal(vectors.Read(t, "ietf-cookbook/"+name), &example) == nil {
			refuse(name, example.Output.Compact)
		}
		return nil
	})
	if err != nil || seen < 50 {
		t.Errorf("%d JWEs: %v", seen, err)
	}
}

// Every mutant of a sealed token is refused, and cheaply.
func TestSealedMutants(t *testing.T) {
	b, key := sealedBench(t)
	seed := mathrand.Uint64()
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	good := seal(t, key, b.good().Compact())
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=\n{"
	for range 5000 {
		mutant := []byte(good)
		switch at := random.IntN(len(mutant)); random.IntN(4) {
		case 0:
			mutant[at] = letters[random.IntN(len(letters))]
		case 1:
			mutant = append(mutant[:at], mutant[at+1:]...)
		case 2:
			mutant = append(mutant[:at], append([]byte{letters[random.IntN(len(letters))]}, mutant[at:]...)...)
		default:
			mutant = append(mutant[:at], mutant[min(len(mutant), at+random.IntN(64)):]...)
		}
		if string(mutant) == good {
			continue
		}
		if _, err := b.verifier.Verify(t.Context(), string(mutant)); handoff.ReasonOf(err) != handoff.ReasonTokenInvalid {
			t.Fatalf("seed %d: %v: %q", seed, err, mutant)
		}
	}
}

func FuzzSealed(f *testing.F) {
	b, key := sealedBench(f)
	good := seal(f, key, b.good().Compact())
	f.Add(good)
	f.Add(good + ".")
	f.Fuzz(func(t *testing.T, raw string) {
		inner, err := opener(t, key)(raw)
		if err == nil && raw != good {
			t.Fatalf("opened to %q", inner)
		}
	})
}

func TestUnsealKeysRefused(t *testing.T) {
	key := newUnsealKey(t)
	for _, bad := range [][]sealed.PrivateKey{{}, {{}}, {key, key}, {key, newUnsealKey(t), newUnsealKey(t)}} {
		if o, err := sealed.NewOpener(bad...); err == nil || o != nil {
			t.Errorf("%d keys: %v", len(bad), err)
		}
	}
	p384, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealed.NewPrivateKey(p384); err == nil {
		t.Error("a key on P-384")
	}
	if _, err := sealed.NewKey(nil); err == nil {
		t.Error("no key")
	}
	if _, err := (sealed.Key{}).Seal("a"); err == nil {
		t.Error("the zero key seals")
	}
}

// BenchmarkStranger measures what a stranger can have a verifier do with a sealed token,
// beside the check of a signature in the same run: "x-signature" is how many of those
// it costs. The dearest is one that opens, which anybody can make, as the key is public.
func BenchmarkStranger(b *testing.B) {
	bench, key := sealedBench(b)
	good := bench.good().Compact()
	at := strings.LastIndexByte(good, '.')
	input, signature := good[:at], good[at+1:]
	bytes, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		b.Fatal(err)
	}
	public := bench.key.Private.Public().(ed25519.PublicKey)
	open := opener(b, key)
	for name, raw := range map[string]string{
		"that opens": seal(b, key, good), "as long as can be": seal(b, key, strings.Repeat("A", 4096)), "that does not open": seal(b, key, good)[:300],
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var unsealing, checking time.Duration
			for b.Loop() {
				began := time.Now()
				_, _ = open(raw)
				between := time.Now()
				if !ed25519.Verify(public, []byte(input), bytes) {
					b.Fatal("the signature does not verify")
				}
				unsealing, checking = unsealing+between.Sub(began), checking+time.Since(between)
			}
			b.ReportMetric(float64(unsealing)/float64(checking), "x-signature")
		})
	}
}

// A stranger's sealed token has the audience allocate 8 KiB at the most.
func TestUnsealAllocatesLittle(t *testing.T) {
	bench, key := sealedBench(t)
	open := opener(t, key)
	for name, raw := range map[string]string{
		"that opens": seal(t, key, bench.good().Compact()), "as long as can be": seal(t, key, strings.Repeat("A", 4096)), "whose header is long": strings.Repeat("A", 1020) + "..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA",
		"too long": strings.Repeat("A.", 4) + strings.Repeat("A", 1<<20),
	} {
		const most = 8 << 10
		if least := leastAllocated(func() { _, _ = open(raw) }); least > most {
			t.Errorf("one %s: %d bytes, more than %d", name, least, most)
		}
	}
}

// leastAllocated returns the fewest bytes that some calls allocate: the runtime's own
// goroutines allocate too.
func leastAllocated(call func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 30 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		call()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}
