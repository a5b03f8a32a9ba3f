package raced

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// The two parties, and the one call that is measured throughout.
const (
	ShopName    = "https://shop.example"
	billingName = "https://billing.example"
	User        = "6ff0a9de-62a5-4cf8-9a6b-0c2b3a8b9d01"
	PayMethod   = server2v1.InvoiceService_PayInvoice_FullMethodName
)

func Payment() *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-2026-000042",
		Amount:    &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 120000},
		RequestId: "7d0a3e9c-6c2f-4c8e-9a51-0a3f6d1f7b11",
		Memo:      "lunch",
	}
}

// Shop is the issuer: its key, in the open so that others can sign with it too.
type Shop struct {
	Private crypto.Signer
	Key     *signkey.Key
	issuer  *handoff.Issuer
	session string
	method  *rule.Method // looked up once, as SERVER1 does
}

// newKey makes a key of the size that most people use; RSA of 2048 bits.
func newKey(algorithm handoff.Algorithm) (crypto.Signer, error) {
	switch algorithm {
	case handoff.EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	case handoff.ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case handoff.ES384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case handoff.PS256, handoff.RS256:
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return nil, fmt.Errorf("no key for %q", algorithm)
}

func NewShop(algorithm handoff.Algorithm) (*Shop, error) { return newNamedShop(ShopName, algorithm) }

func newNamedShop(name string, algorithm handoff.Algorithm) (*Shop, error) {
	private, err := newKey(algorithm)
	if err != nil {
		return nil, err
	}
	key, err := signkey.New(algorithm, private)
	if err != nil {
		return nil, err
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: name, Key: key, Lifetime: handoff.MaxLifetime})
	if err != nil {
		return nil, err
	}
	method, err := rule.Linked().Method(PayMethod)
	if err != nil {
		return nil, err
	}
	return &Shop{Private: private, Key: key, issuer: issuer, session: handoff.NewID(), method: method}, nil
}

// Issue does what SERVER1 does between its policy and its answer.
func (s *Shop) Issue(ctx context.Context, req proto.Message) (string, error) {
	op, err := s.method.Operation(req)
	if err != nil {
		return "", err
	}
	return s.Sign(ctx, op)
}

func (s *Shop) Sign(ctx context.Context, op handoff.Operation) (string, error) {
	raw, _, err := s.issuer.Issue(ctx, handoff.IssueParams{Audience: billingName, Subject: User, Session: s.session, Operation: op})
	return raw, err
}

// Tokens issues n for the same payment.
func (s *Shop) Tokens(ctx context.Context, n int) ([]string, error) {
	all := make([]string, n)
	for i := range all {
		var err error
		if all[i], err = s.Issue(ctx, Payment()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// wound is a clock that can be set ahead, so that a store that refuses what was
// issued before it began need not be waited for.
type wound struct{ ahead time.Duration }

func (w *wound) now() time.Time { return time.Now().Add(w.ahead) }
