package keyset

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
	jwkvalue "github.com/handoff-auth/handoff/shared/internal/jwk"
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
		if instead := jwkvalue.Instead(text); instead != nil {
			err = fmt.Errorf("%w: %w", err, instead)
		}
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

// otherBlocks are known blocks that have a public key in them.
var otherBlocks = []string{"CERTIFICATE", "RSA PUBLIC KEY", "EC PARAMETERS", "DSA PUBLIC KEY"}

// readPEM reads blocks PUBLIC KEY with nothing between them: pem.Decode alone
// would skip a damaged block as if it were a comment.
func (c *collector) readPEM(text string) error {
	if strings.Contains(text, "PRIVATE KEY-----") {
		return errPrivate
	}
	for i := 1; text != ""; i++ {
		body, rest, ok := strings.Cut(text, pemEnd)
		if kind, _, _ := strings.Cut(strings.TrimPrefix(body, pemPrefix), "-----"); slices.Contains(otherBlocks, kind) {
			return fmt.Errorf("block %d is %s, not PUBLIC KEY: openssl makes that of it", i, kind)
		}
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
		return unreadable(der)
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

// unreadable says why a SubjectPublicKeyInfo is refused that the standard library does
// not read.
func unreadable(der []byte) error {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &info); err == nil && len(rest) == 0 {
		switch point := info.Key.Bytes; info.Algorithm.Algorithm.String() {
		case "1.2.840.113549.1.1.10": // id-RSASSA-PSS, RFC 4055 section 3.1
			return errors.New("an RSA key that is bound to PSS in a form that is not read: give it as a JWK with alg PS256")
		case "1.2.840.10045.2.1": // id-ecPublicKey, RFC 5480 section 2.1.1
			if len(point) > 0 && (point[0] == 2 || point[0] == 3) {
				return errors.New("its point is compressed: openssl ec -pubin -conv_form uncompressed writes it whole")
			}
		}
	}
	return errors.New("not a public key of a known kind (RFC 5280 section 4.1.2.7)")
}
