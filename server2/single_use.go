package main

import (
	"context"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/serving"
)

// redemptions returns where redemptions are remembered, and when it can be
// relied on.
func (c *serveCommand) redemptions() (handoff.Store, serving.Readiness) {
	memory := replay.NewMemory(replay.Config{Skew: c.Skew})
	return memory, serving.Readiness{Name: "redemptions", Check: func(context.Context) error {
		if wait := time.Until(memory.Ready()); wait > 0 {
			return fmt.Errorf("tokens from before the start are refused for another %s", wait.Round(time.Millisecond))
		}
		return nil
	}}
}
