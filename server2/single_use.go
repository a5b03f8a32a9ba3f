package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/serving"
)

// redemptions returns where redemptions are remembered.
func (c *serveCommand) redemptions(*slog.Logger) (handoff.Store, part, error) {
	memory := replay.NewMemory(replay.Config{Skew: c.Skew})
	return memory, part{ready: []serving.Readiness{{Name: "redemptions", Check: func(context.Context) error {
		if wait := time.Until(memory.Ready()); wait > 0 {
			return fmt.Errorf("tokens from before the start are refused for another %s", wait.Round(time.Millisecond))
		}
		return memory.Healthy()
	}}}}, nil
}
