package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/signing"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

// terms are the times that this process keeps to.
func (c *serveCommand) terms() trust.Terms {
	return trust.Terms{Issuer: c.Issuer, TokenLifetime: c.MaxLifetime, ListLifetime: c.TrustLifetime, Skew: c.Skew}
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
func (c *serveCommand) readKeys(p *parts) (err error) {
	if c.Key != "" {
		if p.signs.one, err = loadKey("key", c.Key); err != nil {
			return err
		}
	}
	if c.TrustKey == "" {
		return nil
	}
	if p.trustKey, err = loadKey("trust-key", c.TrustKey); err != nil {
		return err
	}
	if p.signs.one != nil && p.signs.one.Key().ID() == p.trustKey.Key().ID() {
		return signsBoth()
	}
	if c.KeyDir != "" {
		if _, err := signing.OpenFolder(c.KeyDir); err != nil {
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
		if config.Folder, err = signing.OpenFolder(c.KeyDir); err != nil {
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
type statement struct{ *database.DB }

// State is a trust.Source's.
func (s statement) State(ctx context.Context) (trust.State, error) { return s.Trust(ctx, time.Now()) }

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
		Terms: c.terms(), Key: key, Source: statement{p.db}, File: c.TrustFile,
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
	var unwritable *fs.PathError
	if errors.As(err, &unwritable) {
		return nil, wrong("trust-file", err)
	}
	return publisher, err
}

// web is the HTTPS listener. It belongs to the publisher alone, whose handler is
// set before it runs.
type web struct {
	listener net.Listener
	server   *http.Server
}

// maxRequests is how many requests one connection can have under way: a follower has
// one, and each that is not read holds a part of the list.
const maxRequests = 8

// web opens the HTTPS listener, with the certificate of the gRPC server.
func (c *serveCommand) web(server *serving.Server, log *slog.Logger) (*web, error) {
	listener, err := server.Listen("http", c.HTTP)
	if err != nil {
		return nil, err
	}
	return &web{listener: listener, server: &http.Server{
		TLSConfig:         server.TLS("h2", "http/1.1"),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxRequests},
		ReadHeaderTimeout: serving.HandshakeTimeout, // and of the TLS handshake
		ReadTimeout:       serving.CallTimeout,
		WriteTimeout:      time.Minute, // of the longest list, 16 MiB
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    serving.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// run serves until ctx ends, and then lets answers under way finish.
func (w *web) run(ctx context.Context) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), serving.HandshakeTimeout)
		defer cancel()
		stopped <- errors.Join(w.server.Shutdown(grace), w.server.Close())
	})
	err := w.server.ServeTLS(w.listener, "", "")
	if stop() { // it failed before
		return err
	}
	return <-stopped
}
