package redisreplay_test

import (
	"context"
	"fmt"
	"log"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
)

func ExampleOpen() {
	ctx := context.Background()
	store, err := redisreplay.Open(ctx, redisreplay.Config{URL: "redis://127.0.0.1:6379/0"})
	if err != nil {
		log.Fatal(err) // names the setting to change
	}
	defer store.Close()
	issued := store.Ready()
	err = store.Redeem(ctx, handoff.Redemption{
		Issuer: "https://shop.example", ID: handoff.NewID(),
		IssuedAt: issued, Expires: issued.Add(handoff.KindHandoff.DefaultLifetime()),
	})
	fmt.Println("redeemed:", err == nil)
}
