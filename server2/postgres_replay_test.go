package main

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// E01, E02, E06: two SERVER2s with one PostgreSQL let each token run once, also after a
// restart and while it is killed; without its table none starts.
func TestReplayInPostgres(t *testing.T) {
	t.Parallel()
	postgres := servingtest.StartPostgres(t)
	location := postgres.Database(t)
	s, key := goodSettings(t)
	s["replay"], s["skew"] = location, "1s"
	refused(t, s.args(), "init --replay postgres://")
	for range 2 {
		var out servingtest.Log
		if code := run(t.Context(), []string{"init", "--replay", location}, &out, &out); code != 0 || !strings.Contains(out.String(), "handoff_redemptions") {
			t.Fatalf("init: status %d: %s", code, &out)
		}
	}
	issuer := newIssuer(t, key, nil)
	replica := func() *running {
		s["database"] = filepath.Join(t.TempDir(), "server2.db") // so that it is the PostgreSQL that remembers
		r := start(t, s.args())
		r.connect(t, s["tls-cert"])
		return r
	}
	replicas := []*running{replica(), replica()}
	req := payment("INV-404", 1, 1)
	fresh := func() string {
		return token(t, issuer, payMethod, req, func(p *handoff.IssueParams) { p.Lifetime = handoff.MaxLifetime })
	}
	raw := runsOnce(t, replicas, 16, req, fresh)
	third := replica()
	if _, err := third.answer(t, req, raw); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenReplayed {
		t.Errorf("after a restart: %v", err)
	}
	postgres.Kill(t)
	if _, err := third.client.PayInvoice(t.Context(), req, handoffgrpc.Token(fresh())); handoffgrpc.ReasonOf(err) != handoff.ReasonStoreUnavailable {
		t.Errorf("without its PostgreSQL: %v", err)
	}
	postgres.Start(t)
	if _, err := third.answer(t, req, raw); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenReplayed {
		t.Errorf("after kill -9 of PostgreSQL: %v", err)
	}
	if _, err := third.answer(t, req, fresh()); status.Code(err) != codes.NotFound {
		t.Errorf("a fresh token, after kill -9 of PostgreSQL: %v", err)
	}
	if strings.Contains(third.log.String(), "started over") {
		t.Errorf("it has started over, though nothing was lost: %s", third.log)
	}
}

// What is no place of redemptions is refused as such, and no line shows a password.
func TestReplayPlaces(t *testing.T) {
	t.Parallel()
	for place, names := range map[string]string{
		"mysql://app:c2VjcmV0@127.0.0.1/app":                        "postgres://",
		"postgres://app:c2VjcmV0@127.0.0.1:1/app":                   "no connection to PostgreSQL",
		"postgres://app:c2VjcmV0@192.0.2.1/app":                     "sslmode=verify-full",
		"postgres://app:c2VjcmV0@127.0.0.1/app?pool_max_conns=many": "--replay",
	} {
		for _, command := range []string{"serve", "init"} {
			s, _ := goodSettings(t)
			s["replay"] = place
			args := s.args()
			if command == "init" {
				args = []string{"init", "--replay", place}
			}
			var out servingtest.Log
			if code := run(t.Context(), args, &out, &out); code == 0 || !strings.Contains(out.String(), names) || strings.Contains(out.String(), "c2VjcmV0") {
				t.Errorf("%s --replay %s: status %d: %s", command, place, code, &out)
			}
		}
	}
	s, _ := goodSettings(t)
	s["replay"], s["redis-wait"] = "postgres://app:c2VjcmV0@127.0.0.1:1/app", "1"
	refused(t, s.args(), "--redis-wait")
}
