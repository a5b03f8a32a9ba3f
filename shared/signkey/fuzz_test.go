package signkey

import (
	"crypto"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// FuzzParse holds the reader of key files against go-jose. Accepted implies:
// go-jose reads a private key, too, whose public key is the same.
func FuzzParse(f *testing.F) {
	const (
		x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" // RFC 8037 appendix A.1
		d = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
	)
	f.Add(`{"kty":"OKP","crv":"Ed25519","x":"` + x + `","d":"` + d + `","alg":"EdDSA"}`)
	f.Add(`{"kty":"OKP","crv":"Ed25519","x":"` + x + `","d":"` + d + `","alg":"EdDSA","use":"sig","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"}`)
	f.Add(`{"kty":"EC","crv":"P-256","x":"gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0","y":"SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps","d":"0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo","alg":"ES256"}`)
	f.Fuzz(func(t *testing.T, text string) {
		k, err := parse(text)
		if err != nil {
			if k != nil || strings.Contains(text, d) && strings.Contains(err.Error(), d) {
				t.Error("a key beside an error, or in it")
			}
			return
		}
		var other jose.JSONWebKey
		if err := other.UnmarshalJSON([]byte(text)); err != nil || other.IsPublic() {
			t.Fatalf("go-jose does not read a private key: %v", err)
		}
		sum, err := other.Thumbprint(crypto.SHA256)
		if err != nil || base64.RawURLEncoding.EncodeToString(sum) != k.Key().ID() {
			t.Errorf("go-jose reads another key: %v", err)
		}
	})
}
