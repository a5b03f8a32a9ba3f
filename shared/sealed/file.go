package sealed

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/internal/jwk"
	"github.com/handoff-auth/handoff/shared/strictjson"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// maxSize is the longest key file that is read, in bytes.
const maxSize = 64 << 10

// use is what a JWK says of a key that is here for (RFC 7517 section 4.2), so that
// none is taken for a signing key.
const use = "enc"

// Generate makes a new private key.
func Generate() (PrivateKey, error) {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return PrivateKey{}, err
	}
	return NewPrivateKey(private)
}

// Save writes the key to a new file that only its owner can read (mode 0600), as a
// private JWK. It refuses a path that exists.
func (k PrivateKey) Save(path string) error {
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), k.secret.private.Bytes())
	if err != nil {
		return errors.New("this key cannot be written")
	}
	text, err := json.Marshal(jose.JSONWebKey{Key: private, KeyID: k.public.id, Algorithm: alg, Use: use})
	if err != nil {
		return errors.New("this key cannot be written")
	}
	return vetted.WriteNew(path, append(text, '\n'), 0o600)
}

// Load reads a key that Save wrote. It refuses a file that others can use, as package
// vetted has it. The error names the path, and nothing of the key.
func Load(path string) (PrivateKey, error) {
	text, err := vetted.File{Path: path, Secret: true, Max: maxSize}.Read()
	if err != nil {
		return PrivateKey{}, err
	}
	if instead := jwk.Instead(string(text)); instead != nil {
		return PrivateKey{}, fmt.Errorf("%s: not a private JWK, as handoff keygen --use enc makes one: %w", path, instead)
	}
	m, err := readJWK(string(text))
	var public Key
	if err == nil {
		public, err = keyOf(m)
	}
	if err == nil && m["d"] == "" {
		err = errors.New("not a private key: d is missing")
	}
	if err != nil {
		return PrivateKey{}, fmt.Errorf("%s: %w", path, err)
	}
	scalar, err := base64url.DecodeString(m["d"])
	if err != nil || !isThumbprint(m["d"]) {
		return PrivateKey{}, fmt.Errorf("%s: d is not 32 bytes in base64url", path)
	}
	private, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("%s: d is not a private key on P-256", path)
	}
	k, err := NewPrivateKey(private)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("%s: %w", path, err)
	}
	if public.id != k.public.id {
		return PrivateKey{}, fmt.Errorf("%s: x and y are not the public half of d", path)
	}
	return k, nil
}

// MarshalKeys returns a JWK Set (RFC 7517 section 5) of public keys, which LoadKeys
// reads.
func MarshalKeys(keys ...Key) ([]byte, error) {
	if err := checkSet(keys); err != nil {
		return nil, err
	}
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.public, KeyID: k.id, Algorithm: alg, Use: use})
	}
	return json.MarshalIndent(set, "", "  ")
}

// LoadKeys reads an audience's public keys: a JWK Set of one, or of two while the
// audience's key changes. Tokens are sealed to the first. It refuses a private key,
// and a file that others than its owner can write. The error names the path.
func LoadKeys(path string) ([]Key, error) {
	text, err := vetted.File{Path: path, Max: maxSize}.Read()
	if err != nil {
		return nil, err
	}
	if instead := jwk.Instead(string(text)); instead != nil {
		return nil, fmt.Errorf("%s: not a JWK Set: %w", path, instead)
	}
	var keys []Key
	err = strictjson.Read(string(text), func(r *strictjson.Reader) error {
		keys, err = ReadKeys(r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// ReadKeys is LoadKeys for a set that stands in a document of its reader's.
func ReadKeys(r *strictjson.Reader) (keys []Key, err error) {
	err = r.Object(func(name string) error {
		if name != "keys" {
			return errors.New("not a JWK Set: it has a member that is not keys")
		}
		return r.Array(func(int) error {
			m, err := members(r)
			if err != nil {
				return err
			}
			if _, private := m["d"]; private {
				return errors.New("a private key, which is for its owner only")
			}
			k, err := keyOf(m)
			keys = append(keys, k)
			return err
		})
	})
	if err == nil {
		err = checkSet(keys)
	}
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// checkSet refuses what is no audience's set of keys.
func checkSet(keys []Key) error {
	switch {
	case len(keys) < 1 || len(keys) > 2:
		return fmt.Errorf("%d keys: it takes one, or two while it changes", len(keys))
	case len(keys) == 2 && keys[0].id == keys[1].id:
		return errors.New("the same key twice")
	}
	return nil
}

func readJWK(text string) (m map[string]string, err error) {
	err = strictjson.Read(text, func(r *strictjson.Reader) error {
		m, err = members(r)
		return err
	})
	return m, err
}

// members reads a JWK of which every member is a string that is known here.
func members(r *strictjson.Reader) (map[string]string, error) {
	m := map[string]string{}
	return m, r.Object(func(name string) (err error) {
		switch name {
		case "kty", "crv", "x", "y", "d", "alg", "use", "kid":
			m[name], err = r.String()
		default:
			err = errors.New("it has a member that a key for sealing does not have")
		}
		return err
	})
}

// keyOf returns the public key of a JWK. `use` must be enc: a key that signs is never
// used for this, nor the other way round.
func keyOf(m map[string]string) (Key, error) {
	switch {
	case m["use"] != use:
		return Key{}, errors.New("use is not enc: handoff keygen --use enc makes a key for sealing")
	case m["alg"] != alg:
		return Key{}, errors.New("alg is not ECDH-ES")
	case m["kty"] != "EC" || m["crv"] != "P-256" || !isThumbprint(m["x"]) || !isThumbprint(m["y"]):
		return Key{}, errors.New("not a key on P-256")
	}
	point, err := base64url.AppendDecode([]byte{4}, []byte(m["x"]))
	if err != nil {
		return Key{}, errors.New("not a key on P-256")
	}
	if point, err = base64url.AppendDecode(point, []byte(m["y"])); err != nil {
		return Key{}, errors.New("not a key on P-256")
	}
	public, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return Key{}, errors.New("not a point on P-256")
	}
	k, err := NewKey(public)
	if err == nil && m["kid"] != "" && m["kid"] != k.id {
		err = errors.New("kid is not the key's RFC 7638 thumbprint")
	}
	return k, err
}
