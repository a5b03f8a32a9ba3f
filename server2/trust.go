package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/trust"
)

// poll is how often a trust list is looked for where nobody announces it. With
// the guard's recheck it makes an open stream outlive its token by less than a
// second.
const poll = 250 * time.Millisecond

// trusted returns the public keys by which SERVER1's tokens are known: those of a
// file, or those that SERVER1's trust list names.
func (c *serveCommand) trusted(log *slog.Logger) (handoff.KeySource, part, error) {
	if err := c.checkTrust(); err != nil {
		return nil, part{}, err
	}
	if c.Keys != "" {
		return c.pinned(log)
	}
	return c.followed(log)
}

// checkTrust refuses settings that do not go together.
func (c *serveCommand) checkTrust() error {
	switch listed := c.Trust != "" || len(c.TrustKey) > 0; {
	case c.Keys == "" && !listed:
		return wrong("keys", errors.New("is required, unless --trust-key and --trust are given"))
	case c.Keys != "" && listed:
		return wrong("keys", errors.New("cannot be given together with --trust-key and --trust: the trust list names the keys"))
	case listed && c.Trust == "":
		return wrong("trust", errors.New("is required with --trust-key"))
	case listed && len(c.TrustKey) == 0:
		return wrong("trust-key", errors.New("is required with --trust"))
	case !listed && c.TrustCA != "":
		return wrong("trust-ca", errors.New("is for --trust, which is not given"))
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
			log.Error("the changed keys do not load: the last good ones stay in use", "cause", err.Error())
			return
		}
		log.Info("keys loaded again")
	}
	return keys, part{}, nil
}

// followed returns the keys that the trust list names, and follows it until the
// part is closed.
func (c *serveCommand) followed(log *slog.Logger) (handoff.KeySource, part, error) {
	trustKeys, err := c.trustKeys()
	if err != nil {
		return nil, part{}, err
	}
	feed, err := c.feed()
	if err != nil {
		return nil, part{}, err
	}
	config := trust.FollowerConfig{Issuer: c.Issuer, TrustKeys: trustKeys, Feed: feed, Skew: c.Skew, Report: report(log)}
	if c.MaxStaleness != nil {
		if *c.MaxStaleness == 0 { // which a FollowerConfig takes for its default
			return nil, part{}, wrong("max-staleness", errors.New("must be more than 0"))
		}
		config.MaxStaleness = *c.MaxStaleness
	}
	follower, err := trust.NewFollower(config)
	if err != nil {
		return nil, part{}, inFlags("FollowerConfig", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { follower.Run(ctx) })
	return follower, part{
		ready:   []serving.Readiness{{Name: "trust list", Check: func(context.Context) error { return follower.Healthy() }}},
		metrics: trustMetrics(follower),
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

// feed returns where the trust list is read. Whatever is not a file is TLS.
func (c *serveCommand) feed() (feed trust.Feed, err error) {
	scheme, address, isURL := strings.Cut(c.Trust, "://")
	if !isURL && c.TrustCA != "" {
		return nil, wrong("trust-ca", errors.New("is for TLS: --trust names a file"))
	}
	roots, err := readRoots(c.TrustCA)
	if err != nil {
		return nil, wrong("trust-ca", err)
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	switch {
	case !isURL && nearlyURL(c.Trust):
		err = errors.New("must be grpc://HOST:PORT, https://HOST/PATH or a file: it is an address without grpc://")
	case !isURL:
		feed, err = trust.NewFileFeed(c.Trust, poll) // which may come later
	case scheme == "https":
		feed, err = trust.NewHTTPSFeed(c.Trust, config, poll)
	case scheme == "grpc":
		if u, malformed := url.Parse(c.Trust); malformed != nil || u.Hostname() == "" || u.Port() == "" || u.Host != address {
			return nil, wrong("trust", errors.New("must be grpc://HOST:PORT"))
		}
		feed, err = trust.NewStreamFeed("dns:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	default:
		err = errors.New("must be grpc://HOST:PORT, https://HOST/PATH or a file")
	}
	if err != nil {
		return nil, wrong("trust", err)
	}
	return feed, nil
}

// nearlyURL reports whether a text that is no URL was meant for a server: it has the
// form HOST:PORT and is no file, or has a user's password, which an error about a
// file would show.
func nearlyURL(name string) bool {
	if user, _, at := strings.Cut(name, "@"); at && strings.Contains(user, ":") {
		return true
	}
	_, port, err := net.SplitHostPort(name)
	if err != nil || strings.Contains(name, "/") {
		return false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false
	}
	_, err = os.Lstat(name)
	return err != nil
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
// is a text alone.
func hint(e trust.Event) string {
	switch {
	case e.Check == handoff.CheckKeyUnknown:
		return "--trust-key is not the public half of the key that signs the list"
	case e.Err != nil && strings.Contains(e.Err.Error(), "x509: certificate signed by unknown authority"):
		return "--trust-ca names the certificates that vouch for the host of --trust"
	case errors.Is(e.Err, fs.ErrNotExist):
		return "--trust names a file that is not there"
	}
	return ""
}

// trustMetrics says how old the list is, and how long.
func trustMetrics(follower *trust.Follower) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "handoff_trust_list_age_seconds", Help: "Age of the trust list in force; infinite where there has been none.",
		}, func() float64 {
			if s := follower.Status(); s.Seq != 0 {
				return time.Since(s.IssuedAt).Seconds()
			}
			return math.Inf(1)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "handoff_trust_list_entries", Help: "What the trust list in force takes back: tokens, sessions and users.",
		}, func() float64 { return float64(follower.Status().Entries) }),
	}
}
