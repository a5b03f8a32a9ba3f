package handoff_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/vectors"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// wycheproofFile is as much of a file of C2SP/wycheproof as the tests here read.
type wycheproofFile struct {
	NumberOfTests int
	TestGroups    []wycheproofGroup
}

type wycheproofGroup struct {
	Comment         string
	Public, Private json.RawMessage // JWK
	PublicKeyDer    string          // hex
	Sha, MgfSha     string
	SLen            int
	Tests           []wycheproofTest
}

type wycheproofTest struct {
	TcID     int
	Comment  string
	JWS      string
	Msg, Sig string // hex
	Result   string
}

func wycheproof(t testing.TB, name string) (file wycheproofFile) {
	t.Helper()
	if err := json.Unmarshal(vectors.Read(t, "wycheproof/"+name), &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// alg returns the algorithm that the group's JWK states.
func (g wycheproofGroup) alg(t testing.TB) string {
	t.Helper()
	var jwk struct{ Alg string }
	if err := json.Unmarshal(g.Private, &jwk); err != nil {
		t.Fatal(err)
	}
	return jwk.Alg
}

// The verdicts that a stricter profile changes are those of
// EXPECTED_DEVIATIONS.json, and two more; every other is the file's.
func TestWycheproofJWS(t *testing.T) {
	outside := []string{"HS256", "RS384", "RS512", "PS384", "PS512", "ES521"}
	deviating := []int{
		346, 350, // PS384 under a key of PS256
		259, 272, // an empty payload: no part of a token is empty (B07)
	}
	counts := map[string]int{}
	whole := newBench(t, handoff.ES256)
	for _, group := range wycheproof(t, "json_web_signature_test.json").TestGroups {
		alg := group.alg(t)
		text := group.Public
		if text == nil {
			text = group.Private // symmetric
		}
		set, err := keyset.Parse(text)
		if wrongUse := alg == ""; (err != nil) != (wrongUse || slices.Contains(outside, alg)) {
			t.Errorf("the key of group %q: %v", group.Comment, err)
		}
		for _, test := range group.Tests {
			want := test.Result == "valid" && !slices.Contains(outside, alg) && !slices.Contains(deviating, test.TcID)
			accepted := false
			if set != nil {
				_, err := handoff.VerifyCompact(test.JWS, set.Keys()[0])
				accepted = err == nil
			}
			if accepted != want {
				t.Errorf("%d (%s, %s): accepted: %t, want %t", test.TcID, group.Comment, test.Comment, accepted, want)
			}
			if _, err := whole.verifier.Verify(t.Context(), test.JWS); handoff.ReasonOf(err) != handoff.ReasonTokenInvalid {
				t.Errorf("%d as a handoff token: %v", test.TcID, err)
			}
			counts[alg]++
			if want {
				counts["accepted"]++
			}
		}
	}
	for name, want := range map[string]int{
		"ES256": 39, "RS256": 233, "PS256": 50, "": 4, "HS256": 40,
		"RS384": 4, "RS512": 4, "PS384": 5, "PS512": 20, "ES521": 2, "accepted": 14,
	} {
		if counts[name] != want {
			t.Errorf("%d cases of %q, want %d", counts[name], name, want)
		}
	}
}

// The raw signatures, through the check that tokens go through.
func TestWycheproofSignatures(t *testing.T) {
	for _, test := range []struct {
		file            string
		algorithm       handoff.Algorithm
		cases, accepted int
	}{
		{"ed25519_test.json", handoff.EdDSA, 151, 88},
		{"ecdsa_secp256r1_sha256_p1363_test.json", handoff.ES256, 262, 173},
		{"rsa_signature_2048_sha256_test.json", handoff.RS256, 259, 7}, // "acceptable", a missing NULL, is refused; so are the keys with e = 3
		{"rsa_pss_2048_sha256_mgf1_32_test.json", handoff.PS256, 108, 63},
		{"rsa_pss_misc_test.json", handoff.PS256, 150, 1}, // all genuine, one with PS256's parameters
	} {
		t.Run(test.file, func(t *testing.T) {
			cases, accepted := 0, 0
			for _, group := range wycheproof(t, test.file).TestGroups {
				public, err := x509.ParsePKIXPublicKey(unhex(t, group.PublicKeyDer))
				if err != nil {
					t.Fatal(err)
				}
				key, err := handoff.NewKey(test.algorithm, public)
				rsaKey, isRSA := public.(*rsa.PublicKey)
				weak := isRSA && rsaKey.E == 3
				if (err != nil) != weak {
					t.Fatal(err)
				}
				for _, c := range group.Tests {
					want := c.Result == "valid" && !weak
					if strings.Contains(test.file, "misc") {
						want = group.Sha == "SHA-256" && group.MgfSha == "SHA-256" && group.SLen == 32
					}
					if got := key.Verify(unhex(t, c.Msg), unhex(t, c.Sig)); got != want {
						t.Errorf("%d (%s): verified: %t, want %t", c.TcID, c.Comment, got, want)
					} else if got {
						accepted++
					}
					cases++
				}
			}
			if cases != test.cases || accepted != test.accepted {
				t.Errorf("accepted %d of %d, want %d of %d", accepted, cases, test.accepted, test.cases)
			}
		})
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cookbook is an example of RFC 7520, RFC 8037 or RFC 7797.
type cookbook struct {
	Input struct{ Key json.RawMessage }
	Sign  struct { // of the example that signs, then encrypts
		Input  struct{ Key json.RawMessage }
		Output struct{ Compact string }
	}
	Output struct {
		Compact string
		JSON    json.RawMessage
		Flat    json.RawMessage `json:"json_flat"`
	}
}

// Of the cookbook, what is in the profile is accepted; every other text of it,
// JWE and both JSON serialisations included, is refused under every key.
func TestCookbook(t *testing.T) {
	accepted := map[string]handoff.Algorithm{
		"jws/4_1.rsa_v15_signature.json":             handoff.RS256,
		"curve25519/jws.json":                        handoff.EdDSA,
		"6.nesting_signatures_and_encryption.json":   handoff.PS256,
		"jws/4_8.multiple_signatures.json, RS256 of": handoff.RS256,
	}
	key := func(name string) handoff.Key {
		t.Helper()
		var example cookbook
		var many struct {
			Input struct{ Key []json.RawMessage }
		}
		text := vectors.Read(t, "ietf-cookbook/"+strings.TrimSuffix(name, ", RS256 of"))
		if json.Unmarshal(text, &example) != nil {
			t.Fatal(name)
		}
		jwk := example.Input.Key
		if jwk == nil {
			jwk = example.Sign.Input.Key
		}
		if json.Unmarshal(text, &many) == nil && many.Input.Key != nil {
			jwk = many.Input.Key[0]
		}
		return publicOf(t, accepted[name], jwk)
	}
	var all []handoff.Key
	for name := range accepted {
		all = append(all, key(name))
	}
	verify := func(name, raw string) {
		t.Helper()
		if algorithm, ok := accepted[name]; ok {
			if _, err := handoff.VerifyCompact(raw, key(name)); err != nil {
				t.Errorf("%s, in the profile with %s: %v", name, algorithm, err)
			}
			return
		}
		for _, key := range all {
			if _, err := handoff.VerifyCompact(raw, key); err == nil {
				t.Errorf("%s is accepted under a key of %s", name, key.Algorithm())
			}
		}
	}

	files, texts := 0, 0
	root := os.DirFS(path.Join(vectors.Dir(t), "ietf-cookbook"))
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".json") || strings.HasPrefix(name, "jwk/") {
			return err
		}
		var example cookbook
		if err := json.Unmarshal(vectors.Read(t, "ietf-cookbook/"+name), &example); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		files++
		for kind, raw := range map[string]string{
			name: example.Output.Compact + example.Sign.Output.Compact, name + " as JSON": string(example.Output.JSON),
			name + " as flattened JSON": string(example.Output.Flat),
		} {
			if raw != "" {
				verify(kind, raw)
				texts++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var many struct {
		Output struct {
			JSON struct {
				Payload    string
				Signatures []struct{ Protected, Signature string }
			}
		}
	}
	const multiple = "jws/4_8.multiple_signatures.json"
	if err := json.Unmarshal(vectors.Read(t, "ietf-cookbook/"+multiple), &many); err != nil {
		t.Fatal(err)
	}
	for i, signature := range many.Output.JSON.Signatures {
		name := multiple + ", RS256 of"
		if i > 0 {
			name = multiple + ", another of"
		}
		verify(name, signature.Protected+"."+many.Output.JSON.Payload+"."+signature.Signature)
		texts++
	}
	if files != 26 || texts != 69 {
		t.Errorf("%d texts in %d files", texts, files)
	}
}

// publicOf reads a private JWK as the public key that it has.
func publicOf(t testing.TB, algorithm handoff.Algorithm, jwk json.RawMessage) handoff.Key {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal(jwk, &members); err != nil {
		t.Fatal(err)
	}
	public := map[string]any{"alg": algorithm}
	for _, name := range []string{"kty", "crv", "x", "y", "n", "e"} {
		if value, ok := members[name]; ok {
			public[name] = value
		}
	}
	text, err := json.Marshal(public)
	if err != nil {
		t.Fatal(err)
	}
	set, err := keyset.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return set.Keys()[0]
}

// Each file of the JSON test suite as the header, as the payload and as the value
// of a claim of each type of a correctly signed token: refused, and never a panic.
// One file is what a claim may be.
func TestJSONTestSuiteInTokens(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	dir := path.Join(vectors.Dir(t), "jsontestsuite/test_parsing")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var accepted []string
	for _, entry := range entries {
		text := string(vectors.Read(t, "jsontestsuite/test_parsing/"+entry.Name()))
		good := b.good()
		for kind, raw := range map[string]string{
			"header": good.Text(text, good.Payload.String()), "payload": good.Text(good.Header.String(), text),
			"kid": good.WithHeader("kid", text).Compact(), "another member": good.WithHeader("x", text).Compact(),
			"another claim": good.WithClaim("x", text).Compact(),
		} {
			if _, err := b.verifier.Verify(t.Context(), raw); err == nil {
				t.Errorf("%s is accepted as %s", entry.Name(), kind)
			}
		}
		for _, claim := range []string{"sub", "jti", "exp", "authorization_details"} {
			if _, err := b.verifier.Verify(t.Context(), good.WithClaim(claim, text).Compact()); err == nil {
				accepted = append(accepted, claim+" "+entry.Name())
			}
		}
	}
	if len(entries) != 318 {
		t.Errorf("%d files, want 318", len(entries))
	}
	if want := []string{"sub y_structure_lonely_string.json"}; !slices.Equal(accepted, want) { // "asd"
		t.Errorf("accepted are %q, want %q", accepted, want)
	}
}
