package keyset_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/handoff-auth/handoff/shared/internal/vectors"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// The Wycheproof file pairs each key set with a token. The sets of our kinds must
// be refused when they are read, except the one that is good; a symmetric set is
// refused, even if the file calls its token valid.
func TestWycheproofJWK(t *testing.T) {
	var file struct {
		TestGroups []struct {
			Comment         string
			Public, Private json.RawMessage
			Tests           []struct {
				TcID   int
				Result string
			}
		}
	}
	read(t, "wycheproof/json_web_key_test.json", &file)
	var expected struct {
		JSONWebKeyTest struct {
			Asymmetric []int `json:"asymmetric_subset"`
			Symmetric  []int `json:"symmetric_all_refused_at_load"`
		} `json:"json_web_key_test"`
	}
	read(t, "wycheproof/EXPECTED_DEVIATIONS.json", &expected)

	accepted, refused := 0, 0
	for _, group := range file.TestGroups {
		text := group.Public
		if text == nil {
			text = group.Private
		}
		for _, test := range group.Tests {
			ours := slices.Contains(expected.JSONWebKeyTest.Asymmetric, test.TcID)
			if ours == slices.Contains(expected.JSONWebKeyTest.Symmetric, test.TcID) {
				t.Errorf("%d is not listed as one of either kind", test.TcID)
			}
			want := ours && test.Result == "valid"
			if _, err := keyset.Parse(text); (err == nil) != want {
				t.Errorf("%d (%s): %v, want accepted: %t", test.TcID, group.Comment, err, want)
			}
			if want {
				accepted++
			} else {
				refused++
			}
		}
		if group.Public != nil {
			if _, err := keyset.Parse(group.Private); err == nil {
				t.Errorf("%s: the private set is accepted", group.Comment)
			}
		}
	}
	if accepted != 1 || refused != 25 {
		t.Errorf("%d accepted and %d refused of 26", accepted, refused)
	}
}

// A04: of the Wycheproof signatures, the four whose key is not for verifying. The
// control is the same key without that defect.
func TestWycheproofKeyUse(t *testing.T) {
	var file struct {
		TestGroups []struct {
			Public map[string]any
			Tests  []struct{ TcID int }
		}
	}
	read(t, "wycheproof/json_web_signature_test.json", &file)
	defect := map[int]string{353: "use", 354: "use", 355: "key_ops", 356: "key_ops"}
	seen := 0
	for _, group := range file.TestGroups {
		for _, test := range group.Tests {
			if defect[test.TcID] == "" {
				continue
			}
			seen++
			key := object(group.Public)
			if key["kty"] == "RSA" {
				key = key.with("alg", "PS256")
			}
			if _, err := keyset.Parse([]byte(set(key))); err == nil {
				t.Errorf("%d is accepted", test.TcID)
			}
			if _, err := keyset.Parse([]byte(set(key.with(defect[test.TcID], nil)))); err != nil {
				t.Errorf("%d without its %s: %v", test.TcID, defect[test.TcID], err)
			}
		}
	}
	if seen != len(defect) {
		t.Errorf("%d of %d found", seen, len(defect))
	}
}

// RFC 7520 section 3 and RFC 8037 appendix A: keys as the RFCs print them. None
// states an algorithm, so that the RSA key must be refused.
func TestCookbookJWK(t *testing.T) {
	for name, want := range map[string]bool{
		"3_1.ec_public_key.json":                 false, // P-521 alone: nothing is left
		"3_2.ec_private_key.json":                false,
		"3_3.rsa_public_key.json":                false,
		"3_4.rsa_private_key.json":               false,
		"3_5.symmetric_key_mac_computation.json": false,
		"3_6.symmetric_key_encryption.json":      false,
	} {
		if _, err := keyset.Parse(vectors.Read(t, "ietf-cookbook/jwk/"+name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	var file struct{ Input struct{ Key map[string]any } }
	read(t, "ietf-cookbook/curve25519/jws.json", &file)
	key := object(file.Input.Key)
	if _, err := keyset.Parse([]byte(set(key))); err == nil {
		t.Error("the private key of RFC 8037 is accepted")
	}
	public, err := keyset.Parse([]byte(set(key.with("d", nil))))
	if err != nil {
		t.Fatal(err)
	}
	if id := public.Keys()[0].ID(); id != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" { // RFC 8037 appendix A.3
		t.Errorf("its thumbprint is %s", id)
	}
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	if err := json.Unmarshal(vectors.Read(t, path), into); err != nil {
		t.Fatal(err)
	}
}
