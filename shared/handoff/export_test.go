package handoff

import "context"

// Verify is the signature check that tokens go through.
func (k Key) Verify(input, signature []byte) bool { return k.verify(input, signature) }

// Canonical returns the RFC 8785 JSON object of what a token for op names.
func (op Operation) Canonical() ([]byte, error) {
	op, err := op.normal()
	if err != nil {
		return nil, err
	}
	return appendCanonical(nil, op.Bound), nil
}

// VerifyCompact takes raw through all that Open does, except what ties a token to
// this project: its length, our typ, and a kid that is a thumbprint. Other
// people's vectors cannot have those.
func VerifyCompact(raw string, key Key) (payload string, err error) {
	jws, err := split(raw)
	if err != nil {
		return "", err
	}
	text, err := jws.decodeHeader()
	if err != nil {
		return "", err
	}
	h, err := parseHeader(text)
	if err != nil {
		return "", err
	}
	if h.alg != key.algorithm {
		return "", invalid("key.alg")
	}
	return jws.verify(key)
}

// FindKey is the search for the key of a token with this encoded payload.
func (v *Verifier) FindKey(ctx context.Context, kid string, algorithm Algorithm, payload string) (Key, error) {
	return v.issuers.find(ctx, header{alg: algorithm, kid: kid}, payload)
}

// AskAll asks each source in turn: what FindKey must agree with.
func (v *Verifier) AskAll(ctx context.Context, kid string, algorithm Algorithm) (Key, error) {
	return anyOf(v.issuers.order).find(ctx, kid, algorithm)
}

// IsPrepared reports whether the key's signatures are checked in the fast way.
func (v *Verifier) IsPrepared(kid string) bool { return v.prepared.Get(kid) != nil }

// CutClaims returns the claims of a payload in the issuer's own spelling, or nil.
func CutClaims(kind Kind, payload string) *Claims { return cutClaims(kind, payload) }

// ParseClaims reads a payload in any spelling.
func ParseClaims(kind Kind, payload string) (*Claims, error) { return parseClaims(kind, payload) }

// Encode returns the payload with these claims.
func (c *Claims) Encode() string { return string(c.encode()) }
