package handofftest

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/sealed"
)

// bind binds a token to a client certificate (RFC 8705 section 3.1), or to none where
// that is nil.
func bind(token forge.Token, certificate *x509.Certificate) forge.Token {
	if certificate == nil {
		return token
	}
	sum := sha256.Sum256(certificate.Raw)
	return token.WithClaim("cnf", `{"x5t#S256":"`+base64.RawURLEncoding.EncodeToString(sum[:])+`"}`)
}

// seal seals a token to a key, unless that is the zero Key.
func seal(t testing.TB, raw string, to sealed.Key) string {
	t.Helper()
	if to.ID() == "" {
		return raw
	}
	out, err := to.Seal(raw)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	return out
}

// recipient returns a key as what hostile tokens are sealed to; of the zero Key, one
// that nobody has.
func recipient(t testing.TB, key sealed.Key) forge.Recipient {
	t.Helper()
	if key.ID() == "" {
		private, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatalf("handofftest: %v", err)
		}
		return forge.NewRecipient(private.PublicKey())
	}
	text, err := sealed.MarshalKeys(key)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	var set struct{ Keys []struct{ X, Y string } }
	if err := json.Unmarshal(text, &set); err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	point := []byte{4}
	for _, coordinate := range []string{set.Keys[0].X, set.Keys[0].Y} {
		if point, err = base64.RawURLEncoding.AppendDecode(point, []byte(coordinate)); err != nil {
			t.Fatalf("handofftest: %v", err)
		}
	}
	public, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	return forge.NewRecipient(public)
}
