package rotation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

func Example() {
	terms := trust.Terms{Issuer: "https://shop.example"}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key := func() handoff.Key {
		k, err := signkey.Generate(handoff.EdDSA) // to be saved before the ring is
		if err != nil {
			panic(err)
		}
		return k.Key()
	}
	first, second := key(), key()

	// The first key signs at once: no audience has a list without it.
	ring, _ := rotation.Ring{}.Prepare(first)
	ring, _ = ring.Activate(first.ID(), now, terms)

	// The second is listed for as long as anybody can rely on a list without it,
	// from when the ring that names it is kept.
	ring, _ = ring.Prepare(second)
	stored, _ := json.Marshal(ring)
	ring, _ = rotation.Parse(stored)
	ring = ring.Settle(now, terms)
	_, err := ring.Activate(second.ID(), now, terms)
	var early *rotation.EarlyError
	if errors.As(err, &early) {
		fmt.Println("wait", early.Wait)
		now = now.Add(early.Wait)
	}
	ring, _ = ring.Activate(second.ID(), now, terms)

	// Once every process has taken up the second, the first can be retired. It stays
	// listed until its last token is dead.
	now = now.Add(terms.Lag())
	ring, _ = ring.Retire(first.ID(), now, terms)
	stored, _ = json.Marshal(ring)
	ring, _ = rotation.Parse(stored)
	ring = ring.Settle(now, terms)
	fmt.Println("listed now:", len(ring.Listed(now)))
	fmt.Println("and later:", len(ring.Listed(now.Add(terms.After()))))
	// Output:
	// wait 1m10s
	// listed now: 2
	// and later: 1
}
