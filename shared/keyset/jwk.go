package keyset

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/handoff"
	jwkvalue "github.com/handoff-auth/handoff/shared/internal/jwk"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// jwk is a JSON Web Key as it stands in a document: of its members, those that
// mean something here.
type jwk struct {
	text map[string]string
	ops  []string // nil: the key has no key_ops
}

var (
	textMembers = []string{"kty", "use", "alg", "kid", "crv", "x", "y", "n", "e"}

	// privateMembers are those of every registered key type: RFC 7518 section 6,
	// RFC 8037 section 2, RFC 9964 section 3.
	privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}
)

// kind is a key type that is understood: its members, and its algorithm unless
// that must be stated (RFC 7518 section 6, RFC 8037 section 2).
type kind struct {
	members   []string
	algorithm handoff.Algorithm
}

// kinds maps `kty` and `crv`. A `crv` of a known `kty` that is not here is
// unknown; one without `crv` where the others have one is a defect.
var kinds = map[[2]string]kind{
	{"OKP", "Ed25519"}: {[]string{"crv", "x"}, handoff.EdDSA},
	{"EC", "P-256"}:    {[]string{"crv", "x", "y"}, handoff.ES256},
	{"EC", "P-384"}:    {[]string{"crv", "x", "y"}, handoff.ES384},
	{"RSA", ""}:        {[]string{"n", "e"}, ""},
}

// readJWK reads one key and adds it, or skips it if its kind is unknown.
func (c *collector) readJWK(text string) error {
	k, err := decodeJWK(text)
	if err != nil {
		return err
	}
	kind, known, err := k.kind()
	if err != nil {
		return err
	}
	if !known {
		return c.skip(k.text["kid"])
	}
	algorithm, err := k.algorithm(kind)
	if err != nil {
		return err
	}
	public, err := k.public(kind)
	if err != nil {
		return err
	}
	key, err := handoff.NewKey(algorithm, public)
	if err != nil {
		return err
	}
	return c.add(key, k.text["kid"])
}

func decodeJWK(text string) (*jwk, error) {
	k := &jwk{text: map[string]string{}}
	err := strictjson.Read(text, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch {
			case slices.Contains(privateMembers, name):
				return errPrivate
			case slices.Contains(textMembers, name):
				k.text[name], err = r.String()
			case name == "key_ops":
				k.ops = []string{}
				err = r.Array(func(int) error {
					op, err := r.String()
					k.ops = append(k.ops, op)
					return err
				})
			default:
				_, err = r.Raw()
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

var errPrivate = errors.New("it is private or symmetric: all who have read it can sign with it")

// kind says what kind of key k is. known is false for a kind that this package
// does not know.
func (k *jwk) kind() (of kind, known bool, err error) {
	kty, ok := k.text["kty"]
	crv, hasCrv := k.text["crv"]
	switch {
	case !ok:
		return kind{}, false, errors.New("kty is missing")
	case kty == "oct":
		return kind{}, false, errPrivate
	case kty == "RSA":
		crv = "" // not a member of an RSA key, so ignored
	case (kty == "EC" || kty == "OKP") && !hasCrv:
		return kind{}, false, errors.New("crv is missing")
	}
	of, known = kinds[[2]string{kty, crv}]
	return of, known, nil
}

// algorithm returns what the key verifies, after checking that it is for that.
func (k *jwk) algorithm(of kind) (handoff.Algorithm, error) {
	if use, ok := k.text["use"]; ok && use != "sig" {
		return "", errors.New("use is not sig")
	}
	if k.ops != nil {
		sorted := slices.Sorted(slices.Values(k.ops))
		if len(slices.Compact(sorted)) != len(k.ops) || !slices.Contains(k.ops, "verify") {
			return "", errors.New("key_ops has no verify, or has an operation twice")
		}
	}
	alg, ok := k.text["alg"]
	alg = jwkvalue.Algorithm(alg)
	switch {
	case !ok && of.algorithm == "":
		return "", errNoAlgorithm
	case !ok:
		return of.algorithm, nil
	case !slices.Contains(handoff.Algorithms(), handoff.Algorithm(alg)):
		return "", fmt.Errorf("alg is none of %s", handoff.Algorithms())
	}
	return handoff.Algorithm(alg), nil // NewKey checks that it fits
}

var errNoAlgorithm = errors.New("an RSA key must say which algorithm it verifies: give it as a JWK with alg PS256 or RS256")

// public decodes the key's own members. go-jose gets them alone, so that what it
// thinks of the others, such as x5c, changes nothing.
func (k *jwk) public(of kind) (any, error) {
	members := map[string]string{"kty": k.text["kty"]}
	for _, name := range of.members {
		value := k.text[name]
		if name != "crv" {
			if err := jwkvalue.CheckValue(k.text["kty"], name, value); err != nil {
				return nil, err
			}
		}
		members[name] = value
	}
	text, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	var decoded jose.JSONWebKey
	if err := decoded.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	return decoded.Key, nil
}
