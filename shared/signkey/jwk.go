package signkey

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/jwk"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

var (
	// statements say what a key is for; the other members are the key.
	statements = []string{"alg", "kid", "use"}
	material   = []string{"kty", "crv", "x", "y", "d", "n", "e", "p", "q", "dp", "dq", "qi"}
)

// parse reads a private JWK.
func parse(text string) (*Key, error) {
	if instead := jwk.Instead(text); instead != nil {
		return nil, fmt.Errorf("not a private JWK, as handoff keygen makes one: %w", instead)
	}
	members, err := decode(text)
	if err != nil {
		return nil, err
	}
	algorithm := handoff.Algorithm(jwk.Algorithm(members["alg"]))
	if !slices.Contains(handoff.Algorithms(), algorithm) {
		return nil, fmt.Errorf("alg is none of %s", handoff.Algorithms())
	}
	if use, ok := members["use"]; ok && use != "sig" {
		return nil, errors.New("use is not sig")
	}
	if _, ok := members["d"]; !ok {
		return nil, errors.New("not a private key: d is missing")
	}
	signer, err := decodeKey(members)
	if err != nil {
		return nil, err
	}
	k, err := New(algorithm, signer)
	if err != nil {
		return nil, err
	}
	if kid, ok := members["kid"]; ok && kid != k.public.ID() {
		return nil, errors.New("kid is not the key's RFC 7638 thumbprint")
	}
	return k, nil
}

func decode(text string) (map[string]string, error) {
	members := map[string]string{}
	err := strictjson.Read(text, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch {
			case slices.Contains(statements, name), slices.Contains(material, name):
				members[name], err = r.String()
			case name == "key_ops":
				var ops []string
				err = r.Array(func(int) error {
					op, err := r.String()
					ops = append(ops, op)
					return err
				})
				if err == nil && !slices.Contains(ops, "sign") {
					err = errors.New("key_ops has no sign")
				}
			default:
				err = errors.New("it has a member that a signing key does not have")
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("not a private JWK: %w", err)
	}
	return members, nil
}

// decodeKey has go-jose decode the key's own members. Its error says nothing
// that is secret, but is not repeated: other people's texts change.
func decodeKey(members map[string]string) (crypto.Signer, error) {
	own := map[string]string{}
	for _, name := range material {
		value, ok := members[name]
		if !ok {
			continue
		}
		if name != "kty" && name != "crv" {
			if err := jwk.CheckValue(members["kty"], name, value); err != nil {
				return nil, err
			}
		}
		own[name] = value
	}
	text, err := json.Marshal(own)
	if err != nil {
		return nil, err
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(text); err != nil {
		return nil, errors.New("not a consistent private key of a known kind")
	}
	signer, ok := key.Key.(crypto.Signer)
	if !ok {
		return nil, errors.New("not an asymmetric private key")
	}
	return signer, nil
}
