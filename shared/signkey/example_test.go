package signkey_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/signkey"
)

func Example() {
	dir, err := os.MkdirTemp("", "signkey")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "shop.key")

	made, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := made.Save(path); err != nil {
		fmt.Println(err)
		return
	}
	key, err := signkey.Load(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	public, err := keyset.New(key.Key()) // what verifiers get
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(public.Keys()[0].ID() == made.Key().ID())
	// Output: true
}
