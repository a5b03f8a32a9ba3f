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
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
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
func (c *serveCommand) redemptions(ctx context.Context, log *slog.Logger) (handoff.Store, part, error) {
	scheme, _, isURL := strings.Cut(c.Replay, "://")
	shared := isURL && (scheme == "redis" || scheme == "rediss")
	if err := c.checkRedis(shared); err != nil {
		return nil, part{}, err
	}
	look := make(chan struct{}, 1)
	config := replay.Config{Skew: c.Skew, Observe: remembered(log, look)}
	switch {
	case shared:
		return c.inRedis(ctx, config.Observe, look)
	case c.Replay == "", isURL, nearlyRedis(c.Replay):
		return nil, part{}, wrong("replay", errors.New("must be memory, a journal, redis://… or rediss://…"))
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
	return journal, part{ready: readiness(journal), look: look, metrics: marks(journal.Live), close: journal.Close}, nil
}

// nearlyRedis reports whether a text that is no URL was meant for a Redis.
func nearlyRedis(place string) bool {
	return nearlyURL(place) || strings.HasPrefix(place, "redis:") || strings.HasPrefix(place, "rediss:")
}

// checkRedis refuses settings of a Redis where there is none.
func (c *serveCommand) checkRedis(isRedis bool) error {
	if isRedis {
		return nil
	}
	for _, given := range []struct {
		setting string
		is      bool
	}{
		{"redis-timeout", c.RedisTimeout != nil},
		{"redis-ca", c.RedisCA != ""},
		{"redis-wait", c.RedisWait != 0},
		{"redis-appendfsync", c.RedisAppendfsync != ""},
		{"redis-accept-last-second-loss", c.RedisAcceptLastSecondLoss},
	} {
		if given.is {
			return wrong(given.setting, errors.New("is for --replay redis://… or rediss://…"))
		}
	}
	return nil
}

// inRedis returns the redemptions that all replicas share.
func (c *serveCommand) inRedis(ctx context.Context, observe func(replay.Event), look <-chan struct{}) (handoff.Store, part, error) {
	roots, err := readRoots(c.RedisCA)
	if err != nil {
		return nil, part{}, wrong("redis-ca", err)
	}
	config := redisreplay.Config{
		URL: c.Replay, RootCAs: roots, Skew: c.Skew, WaitReplicas: c.RedisWait,
		AppendFsync: c.RedisAppendfsync, AcceptLastSecondLoss: c.RedisAcceptLastSecondLoss, Observe: observe,
	}
	if c.RedisTimeout != nil {
		if *c.RedisTimeout == 0 { // which a redisreplay.Config takes for its default
			return nil, part{}, wrong("redis-timeout", errors.New("must be more than 0"))
		}
		config.Timeout = *c.RedisTimeout
	}
	shared, err := redisreplay.Open(ctx, config)
	if err != nil {
		return nil, part{}, wrong("replay", errors.New(redisFlags.Replace(err.Error())))
	}
	return shared, part{ready: readiness(shared), look: look, close: shared.Close}, nil
}

// redisFlags puts what package redisreplay says of its configuration into the
// operator's words.
var redisFlags = strings.NewReplacer(
	"Config.URL must have one", "redis://:PASSWORD@HOST:PORT, best given by $"+prefix+"_REPLAY",
	"Config.URL", "the URL",
	"Config.WaitReplicas", "--redis-wait",
	"Config.AppendFsync", "--redis-appendfsync",
	"Config.AcceptLastSecondLoss", "--redis-accept-last-second-loss",
	"Config.Timeout", "--redis-timeout",
	"Config.Skew", "--skew",
)

// readiness is not there while the store refuses, for whatever reason.
func readiness(s store) []serving.Readiness {
	return []serving.Readiness{{Name: "redemptions", Check: func(context.Context) error {
		if err := s.Healthy(); err != nil {
			return errors.New(redisFlags.Replace(err.Error()))
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

// remembered logs what happens to the store, and has health look at it.
func remembered(log *slog.Logger, look chan<- struct{}) func(replay.Event) {
	return func(e replay.Event) {
		level, attributes := slog.LevelWarn, []slog.Attr{slog.String("event", string(e.Kind))}
		switch e.Kind {
		case replay.Restored, replay.Resumed:
			level = slog.LevelInfo
		case replay.Failed:
			level = slog.LevelError
		}
		if e.Kind == replay.Restored {
			attributes = append(attributes, slog.Int("marks", e.Marks))
		}
		if e.Err != nil {
			attributes = append(attributes, slog.String("cause", redisFlags.Replace(e.Err.Error())))
		}
		log.LogAttrs(context.Background(), level, "redemptions", attributes...)
		select {
		case look <- struct{}{}:
		default:
		}
	}
}

// run makes a journal. That is an act of its own, so that a journal which is not
// where it should be is missed and not made anew.
func (c *initCommand) run(_ context.Context, stdout, _ io.Writer) error {
	if c.Replay == "" || c.Replay == inMemory || strings.Contains(c.Replay, "://") || nearlyRedis(c.Replay) {
		return wrong("replay", errors.New("must name the journal: only that has to be made"))
	}
	if err := replay.Create(c.Replay, replay.Config{Skew: c.Skew}); err != nil {
		return wrong("replay", err)
	}
	fmt.Fprintf(stdout, "made the journal %s; tokens issued in the next %s and before are refused\n", c.Replay, c.Skew)
	return nil
}
