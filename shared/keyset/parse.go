package keyset

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// maxSize is the longest set that is read, in bytes.
const maxSize = 1 << 20

// parse reads a set in any of its forms.
func parse(b []byte) (*keys, error) {
	if len(b) > maxSize {
		return nil, fmt.Errorf("the key set is longer than %d bytes", maxSize)
	}
	c := newCollector()
	var err error
	switch text := string(bytes.TrimSpace(b)); {
	case strings.HasPrefix(text, "{"):
		err = c.readJSON(text)
	case strings.HasPrefix(text, pemPrefix):
		err = c.readPEM(text)
	default:
		err = errors.New("the key set is neither a JWK Set nor PEM")
	}
	if err != nil {
		return nil, err
	}
	return c.keys()
}

// readJSON reads a JWK Set, or a document that is one JWK.
func (c *collector) readJSON(text string) error {
	var elements []string
	var isSet, isKey bool
	err := strictjson.Read(text, func(r *strictjson.Reader) error {
		return r.Object(func(name string) error {
			isSet = isSet || name == "keys"
			isKey = isKey || name == "kty"
			if name == "keys" {
				return r.Array(func(int) error {
					element, err := r.Raw()
					elements = append(elements, element)
					return err
				})
			}
			_, err := r.Raw()
			return err
		})
	})
	switch {
	case err != nil:
		return fmt.Errorf("the key set cannot be read: %w", err)
	case isSet && isKey:
		return errors.New("the document is both a JWK Set and a JWK")
	case isKey:
		elements = []string{text}
	}
	for i, element := range elements {
		if err := c.readJWK(element); err != nil {
			return fmt.Errorf("key %d of the set: %w", i+1, err)
		}
	}
	return nil
}

const (
	pemPrefix = "-----BEGIN "
	pemBegin  = "-----BEGIN PUBLIC KEY-----"
	pemEnd    = "-----END PUBLIC KEY-----"
)

// readPEM reads blocks PUBLIC KEY with nothing between them: pem.Decode alone
// would skip a damaged block as if it were a comment.
func (c *collector) readPEM(text string) error {
	if strings.Contains(text, "PRIVATE KEY-----") {
		return errPrivate
	}
	for i := 1; text != ""; i++ {
		body, rest, ok := strings.Cut(text, pemEnd)
		if !strings.HasPrefix(body, pemBegin) || strings.Count(body, pemPrefix) != 1 || !ok {
			return fmt.Errorf("block %d is not a whole PEM block PUBLIC KEY", i)
		}
		block, _ := pem.Decode([]byte(body + pemEnd))
		if block == nil || len(block.Headers) > 0 {
			return fmt.Errorf("block %d is not well-formed PEM without headers", i)
		}
		if err := c.readPKIX(block.Bytes); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		text = strings.TrimSpace(rest)
	}
	return nil
}

// readPKIX reads a SubjectPublicKeyInfo, which must imply its algorithm.
func (c *collector) readPKIX(der []byte) error {
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return errors.New("not a public key of a known kind (RFC 5280 section 4.1.2.7)")
	}
	var algorithm handoff.Algorithm
	switch public := public.(type) {
	case ed25519.PublicKey:
		algorithm = handoff.EdDSA
	case *ecdsa.PublicKey:
		algorithm = map[elliptic.Curve]handoff.Algorithm{
			elliptic.P256(): handoff.ES256, elliptic.P384(): handoff.ES384,
		}[public.Curve]
	case *rsa.PublicKey:
		return errNoAlgorithm
	}
	key, err := handoff.NewKey(algorithm, public)
	if err != nil {
		return err
	}
	return c.add(key, "")
}
