package handoff_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/internal/vectors"
)

// The key and the id are always the same ones, so that an input that was found
// yesterday means the same today.
const (
	fuzzKey = "an Ed25519 seed for fuzzing only" // 32 bytes
	fuzzID  = "AAAAAAAAAAAAAAAAAAAAAA"
)

// fuzzBench is a bench whose good token is always the same.
func fuzzBench(t testing.TB) (*bench, forge.Token) {
	private := ed25519.NewKeyFromSeed([]byte(fuzzKey))
	public, err := handoff.NewKey(handoff.EdDSA, private.Public())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{key: &forge.Key{Algorithm: handoff.EdDSA, Private: private, Public: public}, store: &recorder{}, now: now}
	b.verifier, err = handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{shop: following{keys: keys{public}}}, Store: b.store, Now: b.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.prepare(t)
	return b, b.good().WithClaim("jti", forge.Quote(fuzzID)).WithClaim("sid", forge.Quote(fuzzID))
}

// judged offers raw to the verifier and the judge. What is accepted is what the
// judge accepts, which go-jose verifies, and whose parts are the one encoding of
// what they say.
func (b *bench) judged(t *testing.T, raw string) {
	t.Helper()
	verified, err := b.verifier.VerifyAny(t.Context(), raw, &client)
	if err == nil {
		judge{b.key, b.now}.agree(t, raw, verified)
		return
	}
	refusal(t, err)
	if claims, err := (judge{b.key, b.now}).claims(raw); err == nil {
		t.Fatalf("refused, but the judge reads %v: %q", claims, raw)
	}
}

func FuzzHeader(f *testing.F) {
	b, good := fuzzBench(f)
	f.Add(good.Header.String())
	// Seal's own spelling is read by a way of its own: what comes near it.
	kid, usual := b.key.Public.ID(), `{"alg":"EdDSA","kid":"`+b.key.Public.ID()+`","typ":"handoff+jwt"}`
	f.Add(usual)
	for _, more := range []string{`"`, `\`, ` `, `,`, `","kid":"`, `","typ":"`, `","kid":"` + kid, `","typ":"handoff+jwt`, `","x":"`, `{"alg":"`, `"}`} {
		for at := range len(usual) + 1 {
			f.Add(usual[:at] + more + usual[at:])
		}
	}
	for _, raw := range hostile(good) {
		addPart(f, raw, 0)
	}
	for _, text := range jsonTestSuite(f) {
		f.Add(text)
	}
	for _, raw := range wycheproofTokens(f) {
		addPart(f, raw, 0)
	}
	payload := good.Payload.String()
	f.Fuzz(func(t *testing.T, header string) { b.judged(t, good.Text(header, payload)) })
}

func FuzzPayload(f *testing.F) {
	b, good := fuzzBench(f)
	f.Add(good.Payload.String())
	f.Add(bound(good).Payload.String())
	for _, raw := range hostile(good) {
		addPart(f, raw, 1)
	}
	visit := b.visit()
	f.Add(visit.Payload.String())
	for _, attack := range forge.VisitAttacks() {
		addPart(f, attack.Forge(visit), 1)
	}
	for _, text := range jsonTestSuite(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		b.judged(t, good.Text(good.Header.String(), payload))
		b.judged(t, good.Text(visit.Header.String(), payload))
	})
}

func FuzzCompact(f *testing.F) {
	b, good := fuzzBench(f)
	f.Add(good.Compact())
	for _, raw := range hostile(good) {
		f.Add(raw)
	}
	for _, raw := range wycheproofTokens(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) { b.judged(t, raw) })
}

// hostile are the attacks on good, as far as they are no longer than inputs need
// to be.
func hostile(good forge.Token) (raws []string) {
	for _, attack := range forge.Attacks() {
		if attack.Algorithm != "" && attack.Algorithm != good.Key.Algorithm {
			continue
		}
		if raw := attack.Forge(good); len(raw) <= 8192 {
			raws = append(raws, raw)
		}
	}
	return raws
}

// addPart adds what a part of a compact form says.
func addPart(f *testing.F, raw string, part int) {
	parts := strings.Split(raw, ".")
	if part >= len(parts) {
		return
	}
	if text, err := base64.RawURLEncoding.DecodeString(parts[part]); err == nil {
		f.Add(string(text))
	}
}

// jsonTestSuite returns the files of the JSON test suite, or none where there are
// no vectors: a fuzzer does without.
func jsonTestSuite(f *testing.F) (texts []string) {
	dir, _ := vectors.Find()
	files, err := filepath.Glob(filepath.Join(dir, "jsontestsuite/test_parsing/*.json"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if len(text) <= 4096 {
			texts = append(texts, string(text))
		}
	}
	return texts
}

func wycheproofTokens(f *testing.F) (raws []string) {
	if _, ok := vectors.Find(); !ok {
		return nil
	}
	for _, group := range wycheproof(f, "json_web_signature_test.json").TestGroups {
		for _, test := range group.Tests {
			raws = append(raws, test.JWS)
		}
	}
	return raws
}

// The seeds of the fuzzers hold a good token, so that they start from yes.
func TestFuzzSeedIsGood(t *testing.T) {
	b, good := fuzzBench(t)
	if _, err := b.verifier.Verify(t.Context(), good.Compact()); err != nil {
		t.Fatal(err)
	}
}
