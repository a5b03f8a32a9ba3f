package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffprom"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/replay/sqlreplay"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/postgres"
)

// inMemory is the setting for redemptions that end with the process.
const inMemory = "memory"

// store is what remembers redemptions.
type store interface {
	handoff.Store
	Skew() time.Duration
	Ready() time.Time
	Healthy() error
}

// redemptions returns where redemptions are remembered.
func (c *serveCommand) redemptions(ctx context.Context, log *slog.Logger) (store, part, error) {
	at, err := replayAt(c.Replay)
	if err != nil {
		return nil, part{}, err
	}
	if err := c.checkRedis(isRedis(at)); err != nil {
		return nil, part{}, err
	}
	look := make(chan struct{}, 1)
	config := replay.Config{Skew: c.Skew, Observe: remembered(log, look)}
	switch {
	case isRedis(at):
		return c.inRedis(ctx, config.Observe, look)
	case at.URL != nil:
		return c.inPostgres(ctx, at.URL, config.Observe, look)
	case c.Replay == inMemory:
		memory := replay.NewMemory(config)
		return memory, part{ready: readiness(memory), metrics: marks(memory.Live)}, nil
	}
	journal, err := replay.Open(at.Path, config)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %q makes one", err, program+" init --replay "+c.Replay)
	}
	if err != nil {
		return nil, part{}, wrong("replay", err)
	}
	return journal, part{ready: readiness(journal), look: look, metrics: marks(journal.Live), close: journal.Close}, nil
}

// replayAt returns where redemptions are remembered: the path memory is none.
func replayAt(place string) (serving.Location, error) {
	at, err := serving.ParseLocation(place, "memory, the folder of a journal, or a URL that begins with redis://, rediss:// or postgres://", "redis", "rediss", "postgres", "postgresql")
	if err != nil {
		return serving.Location{}, wrong("replay", err)
	}
	return at, nil
}

func isRedis(at serving.Location) bool {
	return at.URL != nil && strings.HasPrefix(at.URL.Scheme, "redis")
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
func (c *serveCommand) inRedis(ctx context.Context, observe func(replay.Event), look <-chan struct{}) (store, part, error) {
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
		if err = inSettings(err); !errors.As(err, new(*serving.SettingError)) {
			err = wrong("replay", err)
		}
		return nil, part{}, err
	}
	return shared, part{ready: readiness(shared), look: look, close: shared.Close}, nil
}

// inPostgres returns the redemptions that all replicas share, in connections of their
// own: one call's wait for the ledger delays no other's redemption.
func (c *serveCommand) inPostgres(ctx context.Context, u *url.URL, observe func(replay.Event), look <-chan struct{}) (store, part, error) {
	db, err := postgres.Open(ctx, u, program+" redemptions")
	if err != nil {
		return nil, part{}, wrong("replay", err)
	}
	db.Limit(c.DatabaseConnections)
	shared, err := sqlreplay.Open(ctx, sqlreplay.Config{DB: db.Write, Skew: c.Skew, Observe: observe})
	if err != nil {
		if errors.Is(err, sqlreplay.ErrNoTable) {
			err = fmt.Errorf("%w: %q makes it", err, program+" init --replay postgres://…")
		}
		return nil, part{}, errors.Join(wrong("replay", serving.Named(err, map[string]string{"sqlreplay.Config.Skew": "skew"})), db.Close())
	}
	closing := func() error { return errors.Join(shared.Close(), db.Close()) }
	return shared, part{ready: readiness(shared), look: look, close: closing}, nil
}

// redisSettings are the settings that fields of a redisreplay.Config come from.
var redisSettings = map[string]string{
	"redisreplay.Config.URL": "replay", "redisreplay.Config.Skew": "skew", "redisreplay.Config.Timeout": "redis-timeout",
	"redisreplay.Config.WaitReplicas": "redis-wait", "redisreplay.Config.AppendFsync": "redis-appendfsync",
	"redisreplay.Config.AcceptLastSecondLoss": "redis-accept-last-second-loss",
}

// inSettings returns an error of redisreplay with the operator's settings in the
// place of fields.
func inSettings(err error) error {
	if errors.Is(err, redisreplay.ErrPassword) {
		return fmt.Errorf("%w: redis://:PASSWORD@HOST:PORT, best given by $%s_REPLAY", err, prefix)
	}
	var unfit *redisreplay.UnfitError
	if !errors.As(err, &unfit) {
		return serving.Named(err, redisSettings)
	}
	texts := make([]string, len(unfit.Problems))
	for i, problem := range unfit.Problems {
		texts[i] = serving.Named(problem, redisSettings).Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

// readiness is not there while the store refuses, for any reason.
func readiness(s store) []serving.Readiness {
	return []serving.Readiness{{Name: "redemptions", Check: func(context.Context) error {
		if err := s.Healthy(); err != nil {
			return inSettings(err)
		}
		if wait := time.Until(s.Ready()); wait > 0 {
			return fmt.Errorf("tokens from before are refused for another %s", wait.Round(time.Millisecond))
		}
		return nil
	}}}
}

func marks(live func() int) []prometheus.Collector {
	return []prometheus.Collector{handoffprom.Redemptions(live)}
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
			attributes = append(attributes, slog.String("cause", inSettings(e.Err).Error()))
		}
		log.LogAttrs(context.Background(), level, "redemptions", attributes...)
		select {
		case look <- struct{}{}:
		default:
		}
	}
}

// run makes what remembers redemptions. That is an act of its own, so that what is not
// where it should be is missed and not made again.
func (c *initCommand) run(ctx context.Context, stdout, _ io.Writer) error {
	at, err := replayAt(c.Replay)
	switch {
	case err != nil:
		return err
	case c.Skew <= 0 || c.Skew > handoff.MaxSkew: // a replay.Config takes these for its default, or its most
		return wrong("skew", fmt.Errorf("must be more than 0 and at most %s", handoff.MaxSkew))
	case (isRedis(at) || c.Replay == inMemory) && c.IfMissing: // a unit has this command for every setting
		fmt.Fprintln(stdout, "nothing has to be made for a Redis, or for memory")
		return nil
	case isRedis(at) || c.Replay == inMemory:
		return wrong("replay", errors.New("must be the folder of a journal or postgres://…: nothing else has to be made"))
	case at.URL != nil && c.skewGiven:
		return wrong("skew", errors.New("is for a journal: with a PostgreSQL, that of serve counts"))
	case at.URL != nil:
		return makeTable(ctx, at.URL, stdout)
	}
	if info, err := os.Stat(at.Path); c.IfMissing && err == nil && info.IsDir() {
		if err := replay.Check(at.Path); err != nil {
			return wrong("replay", err)
		}
		fmt.Fprintf(stdout, "the journal %s is there\n", c.Replay)
		return nil
	}
	if err := replay.Create(at.Path, replay.Config{Skew: c.Skew}); err != nil {
		return wrong("replay", err)
	}
	fmt.Fprintf(stdout, "made the journal %s; tokens issued in the next %s and before are refused\n", c.Replay, c.Skew)
	return nil
}

// makeTable makes the table of a PostgreSQL, unless it is there.
func makeTable(ctx context.Context, u *url.URL, stdout io.Writer) error {
	db, err := postgres.Open(ctx, u, program+" init")
	if err != nil {
		return wrong("replay", err)
	}
	if err := errors.Join(sqlreplay.Create(ctx, sqlreplay.Config{DB: db.Write}), db.Close()); err != nil {
		return wrong("replay", err)
	}
	fmt.Fprintln(stdout, "the table handoff_redemptions is there; the first server that is started on it refuses what was issued before")
	return nil
}
