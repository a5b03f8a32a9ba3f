package handoff_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

type everything struct{}

func (everything) Redeem(context.Context, handoff.Redemption) error { return nil }

func BenchmarkVerifyRedeem(b *testing.B) {
	for _, algorithm := range handoff.Algorithms() {
		b.Run(string(algorithm), func(b *testing.B) {
			bench := newBench(b, algorithm)
			verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
				Audience: billing, Issuers: map[string]handoff.KeySource{shop: keys{bench.key.Public}},
				Store: everything{}, Now: bench.clock,
			})
			if err != nil {
				b.Fatal(err)
			}
			raw := bench.good().Compact()
			b.ReportAllocs()
			for b.Loop() {
				verified, err := verifier.Verify(b.Context(), raw)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := verifier.Redeem(b.Context(), verified, operation, handoff.Rule{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(algorithm)+"/signature-alone", func(b *testing.B) {
			bench := newBench(b, algorithm)
			good := bench.good()
			raw := good.Compact()
			_ = raw
			b.ReportAllocs()
			verifyAlone(b, bench.key, raw)
		})
	}
}

func (b *bench) clock() time.Time { return b.now }

// verifyAlone is the bound: the signature check by crypto/* and nothing else.
func verifyAlone(b *testing.B, key *forge.Key, raw string) {
	dot := strings.LastIndexByte(raw, '.')
	input := []byte(raw[:dot])
	signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256(input)
	for b.Loop() {
		switch public := key.Private.Public().(type) {
		case ed25519.PublicKey:
			ed25519.Verify(public, input, signature)
		case *ecdsa.PublicKey:
			r, s := new(big.Int).SetBytes(signature[:len(signature)/2]), new(big.Int).SetBytes(signature[len(signature)/2:])
			ecdsa.Verify(public, digest[:], r, s)
		case *rsa.PublicKey:
			_ = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature)
		}
	}
}

// What a visit costs beside a reusable handoff of the same method, in turns in one run:
// from a token's bytes to the grant, by a verifier that follows a trust list.
func BenchmarkVisitBesideHandoff(b *testing.B) {
	for _, algorithm := range handoff.Algorithms() {
		b.Run(string(algorithm), func(b *testing.B) {
			bench := newBench(b, algorithm)
			op := operation
			op.Method = get
			raws := [2]string{bench.good().WithDetails(forge.Details(op)).Compact(), bench.visit().Compact()}
			var spent [2]time.Duration
			for b.Loop() {
				for i, raw := range raws {
					began := time.Now()
					verified, err := bench.verifier.VerifyAny(b.Context(), raw, nil)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := bench.verifier.Redeem(b.Context(), verified, op, reads); err != nil {
						b.Fatal(err)
					}
					spent[i] += time.Since(began)
				}
			}
			b.ReportMetric(float64(spent[1])/float64(spent[0]), "visit/handoff")
			b.ReportMetric(float64(spent[1])/float64(b.N), "ns/visit")
		})
	}
}
