package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffprom"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/trust"
)

// poll is how often a trust list is looked for where nobody announces it. With
// the guard's recheck it makes an open stream outlive its token by less than a
// second.
const poll = 250 * time.Millisecond

// trusted returns the public keys by which SERVER1's tokens are known: those of a
// file, or those that SERVER1's trust list names.
func (c *serveCommand) trusted(store handoff.Store, log *slog.Logger) (handoff.KeySource, part, error) {
	if c.Keys != "" {
		return c.pinned(log)
	}
	return c.followed(store, log)
}

// checkTrust refuses settings that do not go together.
func (c *serveCommand) checkTrust() error {
	switch listed := len(c.Trust) > 0 || len(c.TrustKey) > 0; {
	case c.Keys == "" && !listed:
		return wrong("keys", errors.New("is required, unless --trust-key and --trust are given"))
	case c.Keys != "" && listed:
		return wrong("keys", errors.New("cannot be given together with --trust-key and --trust: the trust list names the keys"))
	case listed && len(c.Trust) == 0:
		return wrong("trust", errors.New("is required with --trust-key"))
	case listed && len(c.TrustKey) == 0:
		return wrong("trust-key", errors.New("is required with --trust"))
	case !listed && c.TrustCA != "":
		return wrong("trust-ca", errors.New("is for --trust, which is not given"))
	case !listed && c.TrustState != "":
		return wrong("trust-state", errors.New("is for --trust, which is not given"))
	case !listed && c.MaxStaleness != nil:
		return wrong("max-staleness", errors.New("is for --trust, which is not given: --keys has no age"))
	}
	return nil
}

// pinned returns the keys of a file, which is read again when it changes.
func (c *serveCommand) pinned(log *slog.Logger) (handoff.KeySource, part, error) {
	keys, err := keyset.Load(c.Keys)
	if err != nil {
		return nil, part{}, wrong("keys", err)
	}
	keys.Observe = func(err error) {
		if err != nil {
			log.Warn("the changed keys are not used: the last good ones stay", "error", err.Error())
			return
		}
		log.Info("keys loaded again")
	}
	return keys, part{reload: []func(){keys.Look}}, nil
}

// followed returns the keys that the trust list names, and follows it until the
// part is closed.
func (c *serveCommand) followed(store handoff.Store, log *slog.Logger) (handoff.KeySource, part, error) {
	trustKeys, err := c.trustKeys()
	if err != nil {
		return nil, part{}, err
	}
	feeds, err := c.feeds()
	if err != nil {
		return nil, part{}, err
	}
	config := trust.FollowerConfig{Issuer: c.Issuer, TrustKeys: trustKeys, Feed: feeds[0], Others: feeds[1:], Skew: c.Skew, Report: report(log)}
	if config.Floor, err = c.floor(store); err != nil {
		return nil, part{}, err
	}
	if c.MaxStaleness != nil {
		if *c.MaxStaleness == 0 { // which a FollowerConfig takes for its default
			return nil, part{}, wrong("max-staleness", errors.New("must be more than 0"))
		}
		config.MaxStaleness = *c.MaxStaleness
	}
	follower, err := trust.NewFollower(config)
	if err != nil {
		return nil, part{}, serving.Named(err, fields)
	}
	if config.Floor == nil {
		log.Warn("after a restart an older trust list can be believed until it is too old: --trust-state keeps the number of the newest")
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { follower.Run(ctx) })
	return follower, part{
		ready:   []serving.Readiness{{Name: "trust list", Check: func(context.Context) error { return follower.Healthy() }}},
		metrics: []prometheus.Collector{handoffprom.TrustList(follower)},
		close: func() error {
			stop()
			running.Wait()
			return nil
		},
	}, nil
}

// trustKeys returns the public keys that sign the trust list.
func (c *serveCommand) trustKeys() ([]handoff.Key, error) {
	var all []handoff.Key
	for _, file := range c.TrustKey {
		set, err := keyset.Load(file)
		if err != nil {
			return nil, wrong("trust-key", err)
		}
		all = append(all, set.Keys()...)
	}
	return all, nil
}

// floor returns where the number of the newest trust list is kept: with what must not
// be forgotten either. It is nil where that is memory.
func (c *serveCommand) floor(store handoff.Store) (trust.Floor, error) {
	path, setting := c.TrustState, "trust-state"
	if path == "" {
		switch s := store.(type) {
		case trust.Floor:
			return s, nil
		case *replay.Journal:
			path, setting = filepath.Join(c.Replay, "trust-state"), "replay"
		default:
			return nil, nil
		}
	}
	floor, err := trust.NewFileFloor(path)
	if err != nil {
		return nil, wrong(setting, err)
	}
	return floor, nil
}

// feeds returns where the trust list is read. All but files are TLS.
func (c *serveCommand) feeds() (feeds []trust.Feed, err error) {
	roots, err := readRoots(c.TrustCA)
	if err != nil {
		return nil, wrong("trust-ca", err)
	}
	overTLS := false
	for i, place := range c.Trust {
		if slices.Contains(c.Trust[:i], place) {
			return nil, wrong("trust", errors.New("names one place twice"))
		}
		at, err := serving.ParseLocation(place, "grpc://HOST:PORT, https://HOST/PATH or a file", "grpc", "https")
		if err != nil {
			return nil, wrong("trust", err)
		}
		overTLS = overTLS || at.URL != nil
		feed, err := feedAt(at, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13})
		if err != nil {
			return nil, wrong("trust", err)
		}
		feeds = append(feeds, feed)
	}
	if c.TrustCA != "" && !overTLS {
		return nil, wrong("trust-ca", errors.New("is for TLS: --trust names a file"))
	}
	return feeds, nil
}

func feedAt(at serving.Location, config *tls.Config) (trust.Feed, error) {
	switch u := at.URL; {
	case u == nil:
		return trust.NewFileFeed(at.Path, poll) // which may come later
	case u.Scheme == "https":
		return trust.NewHTTPSFeed(u.String(), config, poll)
	case u.Hostname() == "" || u.Port() == "" || u.String() != "grpc://"+u.Host:
		return nil, errors.New("must be grpc://HOST:PORT")
	default:
		return trust.NewStreamFeed("dns:///"+u.Host, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	}
}

// report logs what happens to the trust list, and what is in force all the same.
func report(log *slog.Logger) func(trust.Event) {
	return func(e trust.Event) {
		var said []any
		if e.Fault != "" {
			said = append(said, "fault", string(e.Fault))
		}
		if e.Check != "" {
			said = append(said, "check", string(e.Check))
		}
		if e.Err != nil {
			said = append(said, "cause", e.Err.Error())
		}
		if s := e.Status; s.Seq != 0 {
			said = append(said, "seq", s.Seq, "issued", s.IssuedAt, "keys", s.Keys, "entries", s.Entries)
		}
		if hint := hint(e); hint != "" {
			said = append(said, "hint", hint)
		}
		switch {
		case e.Fault == "":
			log.Info("the trust list is in force", said...)
		case e.Status.Seq == 0:
			log.Warn("there is no trust list yet: every token is refused until there is one", said...)
		default:
			log.Warn("the trust list is not renewed", said...)
		}
	}
}

// hint names the setting that is likely to be wrong. What gRPC says of a handshake
// is only a text.
func hint(e trust.Event) string {
	switch {
	case e.Check == "key.unknown":
		return "--trust-key is not the public half of the key that signs the list"
	case e.Err != nil && strings.Contains(e.Err.Error(), "x509: certificate signed by unknown authority"):
		return "--trust-ca names the certificates that vouch for the host of --trust"
	case errors.Is(e.Err, fs.ErrNotExist):
		return "--trust names a file that is not there"
	}
	return ""
}
