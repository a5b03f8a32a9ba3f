package keyset_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
)

func Example() {
	keys, err := keyset.Parse([]byte(`{"keys": [
		{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "2026-1"},
		{"kty": "AKP", "alg": "ML-DSA-44", "pub": "of a kind that is not known here yet"}
	]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, key := range keys.Keys() {
		fmt.Println(key.Algorithm(), key.ID())
	}
	_, err = keys.Key(context.Background(), "2026-1") // an id is a thumbprint, not a name
	fmt.Println(errors.Is(err, handoff.ErrKeyUnknown))
	// Output:
	// EdDSA kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k
	// true
}

// Every refusal says which key is wrong, and in what.
func ExampleParse_refused() {
	_, err := keyset.Parse([]byte(`{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "use": "enc"}]}`))
	fmt.Println(err)
	// Output: key 1 of the set: use is not sig
}
