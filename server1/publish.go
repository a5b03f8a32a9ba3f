package server1

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/signing"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// terms are the times that this process keeps to.
func (c *serveCommand) terms() trust.Terms {
	return trust.Terms{Issuer: c.Issuer, TokenLifetime: max(c.MaxLifetime, c.MaxVisitLifetime), ListLifetime: c.TrustLifetime, Skew: c.Skew}
}

// keyring is what signs: one key, or those that the trust list names.
type keyring struct {
	one  *signkey.Key  // the one key
	keys *signing.Keys // nil: there is no trust list
}

// Signer is a handoff.SignerSource's.
func (r *keyring) Signer(ctx context.Context) (handoff.Signer, error) {
	if r.keys != nil {
		return r.keys.Signer(ctx)
	}
	return r.one.Signer(ctx)
}

// readKeys reads the keys that the operator names, and checks where others, and the
// trust list, are to be kept.
func (c *serveCommand) readKeys(build Config, p *parts) (err error) {
	if c.Key != "" {
		if p.signs.one, err = build.loadKey("key", c.Key); err != nil {
			return err
		}
	}
	if c.TrustKey == "" {
		return nil
	}
	if p.trustKey, err = build.loadKey("trust-key", c.TrustKey); err != nil {
		return err
	}
	if p.signs.one != nil && p.signs.one.Key().ID() == p.trustKey.Key().ID() {
		return signsBoth()
	}
	if c.KeyDir != "" {
		if _, err := signkey.OpenFolder(c.KeyDir); err != nil {
			return wrong("key-dir", err)
		}
	}
	return c.checkTrustFile()
}

func signsBoth() error {
	return wrong("trust-key", errors.New("is a key that signs handoffs: the trust key signs trust lists and nothing else"))
}

// checkTrustFile refuses a trust file that could not be replaced.
func (c *serveCommand) checkTrustFile() error {
	if c.TrustFile == "" {
		return nil
	}
	if err := vetted.Replaceable(c.TrustFile); err != nil {
		return wrong("trust-file", err)
	}
	probe, err := os.CreateTemp(filepath.Dir(c.TrustFile), ".handoff-*.tmp")
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		return wrong("trust-file", err)
	}
	return nil
}

// load loads what signs.
func (c *serveCommand) load(ctx context.Context, r *keyring, db *database.DB, log *slog.Logger) (err error) {
	if c.TrustKey == "" {
		return checkTainted(ctx, db, r.one)
	}
	config := signing.Config{DB: db, First: r.one, Terms: c.terms(), Every: c.RotateEvery, Log: log, Now: time.Now}
	setting := "key"
	if c.KeyDir != "" {
		setting = "key-dir"
		if config.Folder, err = signkey.OpenFolder(c.KeyDir); err != nil {
			return wrong(setting, err)
		}
	}
	if r.keys, err = signing.New(ctx, config); err != nil {
		return wrong(setting, err)
	}
	return nil
}

// checkTainted refuses a key that must never sign again, although no trust list
// says so now.
func checkTainted(ctx context.Context, db *database.DB, key *signkey.Key) error {
	ring, err := db.Ring(ctx)
	if err != nil {
		return wrong("database", err)
	}
	for _, k := range ring.Records() {
		if k.State == rotation.Tainted && k.Key.ID() == key.Key().ID() {
			return wrong("key", errors.New("has been tainted"))
		}
	}
	return nil
}

// statement is the database as the publisher reads it.
type statement struct {
	*database.DB
	keys   *signing.Keys // what this process signs with
	visits bool          // are listed
}

// State is a trust.Source's. What it states is taken up by this process first: an
// audience that no longer knows a tainted key gets nothing more that is signed with it.
func (s statement) State(ctx context.Context) (trust.State, error) {
	now := time.Now()
	state, err := s.Trust(ctx, now)
	if err != nil {
		return state, err
	}
	if err := s.keys.Refresh(ctx); err != nil {
		return state, err
	}
	if !s.visits {
		return state, nil
	}
	state.VisitsListed = true
	state.Visits, err = s.DB.Visits(ctx, now)
	return state, err
}

// publisher returns what signs the trust list, with the first list signed, or nil
// where there is no trust key.
func (c *serveCommand) publisher(ctx context.Context, p *parts) (*trust.Publisher, error) {
	if p.trustKey == nil {
		return nil, nil
	}
	key, log := p.trustKey, p.log
	ring, err := p.db.Ring(ctx)
	if err != nil {
		return nil, wrong("database", err)
	}
	for _, k := range ring.Records() {
		if k.Key.ID() == key.Key().ID() {
			return nil, signsBoth()
		}
	}
	publisher, err := trust.NewPublisher(trust.PublisherConfig{
		Terms: c.terms(), Key: key, Source: statement{p.db, p.signs.keys, c.Visits == visitsListed}, File: c.TrustFile,
		Refresh: min(trust.DefaultRefresh, c.TrustLifetime/4), // one that is lost leaves three
		Report: func(err error) {
			if err != nil {
				log.Error("the trust list cannot be published", "cause", err.Error())
			} else {
				log.Info("the trust list is published again")
			}
		},
	})
	if err != nil {
		return nil, err
	}
	err = publisher.Publish(ctx)
	if errors.As(err, new(*fs.PathError)) {
		return nil, wrong("trust-file", err)
	}
	return publisher, err
}

// handler returns what the HTTPS listener serves: the trust list and the public keys
// beneath /.well-known/ (RFC 8615), and the pages everywhere else, while the policy says
// where an audience's are.
func (p *parts) handler() http.Handler {
	published := p.publisher.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/.well-known/") || !p.pages.Open() {
			published.ServeHTTP(w, r)
		} else {
			p.pages.ServeHTTP(w, r)
		}
	})
}

// published says how old the trust list is, and how long. It is asked once there is a
// publisher.
func (p *parts) published() []prometheus.Collector {
	if p.trustKey == nil {
		return nil
	}
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "handoff_trust_list_published_timestamp_seconds", Help: "When the newest trust list was signed, in Unix seconds.",
		}, func() float64 { return float64(max(0, p.publisher.Status().IssuedAt.Unix())) }), // 0: none yet
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "handoff_trust_list_published_entries", Help: "What the newest trust list takes back: tokens, sessions and users.",
		}, func() float64 { return float64(p.publisher.Status().Entries) }),
	}
}
