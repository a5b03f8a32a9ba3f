package issue

import (
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// What the service does is tried in package main, over TLS and with everything
// real; here is what only a mistake in the wiring shows.

func config(t *testing.T) Config {
	t.Helper()
	db, err := database.Open(t.Context(), filepath.Join(t.TempDir(), "server1.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return Config{
		Issuer: &handoff.Issuer{}, Lifetime: time.Minute, Policy: &policy.Policy{}, DB: db,
		Quota: 1, MaxVisits: 1, Record: audit.New(io.Discard), Now: time.Now,
	}
}

func TestNewServiceRefuses(t *testing.T) {
	good := config(t)
	for field, change := range map[string]func(*Config){
		"Issuer":     func(c *Config) { c.Issuer = nil },
		"Lifetime":   func(c *Config) { c.Lifetime = 0 },
		"a fraction": func(c *Config) { c.Lifetime = 1500 * time.Millisecond },
		"Policy":     func(c *Config) { c.Policy = nil },
		"DB":         func(c *Config) { c.DB = nil },
		"Quota":      func(c *Config) { c.Quota = 0 },
		"MaxVisits":  func(c *Config) { c.MaxVisits = 0 },
		"Record":     func(c *Config) { c.Record = nil },
		"Now":        func(c *Config) { c.Now = nil },
	} {
		broken := good
		change(&broken)
		if _, err := NewService(broken); err == nil {
			t.Errorf("%s: accepted", field)
		}
	}
	if _, err := NewService(good); err != nil {
		t.Error(err)
	}
}

func TestWithoutTheGuard(t *testing.T) {
	s, err := NewService(config(t))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.IssueHandoff(t.Context(), &handoffv1.IssueHandoffRequest{})
	if handoffgrpc.ReasonOf(err) != handoff.ReasonSessionInvalid || resp != nil {
		t.Errorf("got %v, %v; want SESSION_INVALID", resp, err)
	}
}

func TestFieldOf(t *testing.T) {
	for detail, want := range map[string]string{
		`"amount.minor_units": it is too long`: "request.amount.minor_units",
		`"labels[\"eu\"]": it is not UTF-8`:    `request.labels["eu"]`,
		`the request: there are too many`:      "request",
		`""`:                                   "request",
		``:                                     "request",
		`"not closed`:                          "request",
	} {
		if got := fieldOf(&handoff.Refusal{Detail: detail}); got != want {
			t.Errorf("%s: got %s, want %s", detail, got, want)
		}
	}
}
