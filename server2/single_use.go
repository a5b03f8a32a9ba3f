package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/serving"
)

// inMemory is the setting for redemptions that end with the process.
const inMemory = "memory"

// store is what remembers redemptions.
type store interface {
	handoff.Store
	Ready() time.Time
	Healthy() error
}

// redemptions returns where redemptions are remembered.
func (c *serveCommand) redemptions(log *slog.Logger) (handoff.Store, part, error) {
	config := replay.Config{Skew: c.Skew, Observe: remembered(log)}
	switch _, _, isURL := strings.Cut(c.Replay, "://"); {
	case c.Replay == "":
		return nil, part{}, wrong("replay", errors.New("must be memory or a journal"))
	case isURL:
		return nil, part{}, wrong("replay", errors.New("must be memory or a journal"))
	case c.Replay == inMemory:
		memory := replay.NewMemory(config)
		return memory, part{ready: readiness(memory), metrics: marks(memory.Live)}, nil
	}
	journal, err := replay.Open(c.Replay, config)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %q makes one", err, program+" init --replay "+c.Replay)
	}
	if err != nil {
		return nil, part{}, wrong("replay", err)
	}
	return journal, part{ready: readiness(journal), metrics: marks(journal.Live), close: journal.Close}, nil
}

// readiness is not there while the store refuses, for whatever reason.
func readiness(s store) []serving.Readiness {
	return []serving.Readiness{{Name: "redemptions", Check: func(context.Context) error {
		if err := s.Healthy(); err != nil {
			return err
		}
		if wait := time.Until(s.Ready()); wait > 0 {
			return fmt.Errorf("tokens from before are refused for another %s", wait.Round(time.Millisecond))
		}
		return nil
	}}}
}

func marks(live func() int) []prometheus.Collector {
	return []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "handoff_redemptions_live", Help: "Redemptions that are remembered now.",
	}, func() float64 { return float64(live()) })}
}

// remembered logs what happens to the store.
func remembered(log *slog.Logger) func(replay.Event) {
	return func(e replay.Event) {
		level, attributes := slog.LevelWarn, []slog.Attr{slog.String("event", string(e.Kind))}
		switch e.Kind {
		case replay.Restored, replay.Resumed:
			level = slog.LevelInfo
		case replay.Failed:
			level = slog.LevelError
		}
		if e.Kind == replay.Restored || e.Kind == replay.BegunAnew {
			attributes = append(attributes, slog.Int("marks", e.Marks))
		}
		if e.Err != nil {
			attributes = append(attributes, slog.String("cause", e.Err.Error()))
		}
		log.LogAttrs(context.Background(), level, "redemptions", attributes...)
	}
}

// run makes a journal. That is an act of its own, so that a journal which is not
// where it should be is missed and not made anew.
func (c *initCommand) run(_ context.Context, stdout, _ io.Writer) error {
	if c.Replay == "" || c.Replay == inMemory || strings.Contains(c.Replay, "://") {
		return wrong("replay", errors.New("must name the journal: only that has to be made"))
	}
	if err := replay.Create(c.Replay, replay.Config{Skew: c.Skew}); err != nil {
		return wrong("replay", err)
	}
	fmt.Fprintf(stdout, "made the journal %s; tokens issued in the next %s and before are refused\n", c.Replay, c.Skew)
	return nil
}
