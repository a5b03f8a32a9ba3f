package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// asProgram makes a process of this binary run the program instead of its tests.
const asProgram = "HANDOFF_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// spawn runs the program in a process of its own, which kill ends as kill -9 does.
// before, if there is any, is a command that becomes the program.
func spawn(t *testing.T, args []string, before ...string) (r *running, kill func()) {
	t.Helper()
	r = &running{log: &servingtest.Log{}}
	line := append(append(before, os.Args[0]), args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr = r.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.pid = cmd.Process.Pid
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	first, err := bufio.NewReader(stdout).ReadString('\n')
	var ok bool
	if r.address, ok = strings.CutPrefix(strings.TrimSpace(first), "listening on "); !ok {
		t.Fatalf("%q, %v: %s", first, err, r.log)
	}
	return r, kill
}

// newJournal makes a journal with the init command.
func newJournal(t *testing.T, skew string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "journal")
	var out servingtest.Log
	if code := run(t.Context(), []string{"init", "--replay", folder, "--skew", skew}, &out, &out); code != 0 {
		t.Fatalf("status %d: %s", code, &out)
	}
	return folder
}

// TestE02: a SERVER2 with a journal that is killed with kill -9 under load forgets
// no redemption that it has acknowledged, and is ready as soon as it is back: it
// refuses nothing that is new.
func TestE02(t *testing.T) {
	t.Parallel()
	const rounds, callers, enough = 3, 8, 50 // redemptions in a round
	s, key := goodSettings(t)
	s["skew"], s["replay"] = "30s", newJournal(t, "50ms") // one that started over would refuse for 30 s
	issuer := newIssuer(t, key, nil)
	spent := map[string]int{} // token -> number of its payment
	number := 0
	for round := range rounds {
		r, kill := spawn(t, s.args())
		r.connect(t, s["tls-cert"])
		if round > 0 && !strings.Contains(r.log.String(), `"event":"restored"`) {
			t.Errorf("round %d: the journal was not restored: %s", round, r.log)
		}
		for raw, n := range spent {
			_, err := r.client.PayInvoice(t.Context(), payment("INV-404", 1, n), handoffgrpc.Token(raw))
			wantReason(t, fmt.Sprintf("round %d, token %d", round, n), err, handoff.ReasonTokenReplayed)
		}
		before := len(spent)
		var mu sync.Mutex
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range callers {
			wg.Go(func() {
				for ctx.Err() == nil {
					mu.Lock()
					number++
					n := number
					mu.Unlock()
					req := payment("INV-404", 1, n)
					raw := token(t, issuer, payMethod, req, func(p *handoff.IssueParams) { p.Lifetime = handoff.MaxLifetime })
					_, err := r.client.PayInvoice(ctx, req, handoffgrpc.Token(raw))
					switch {
					case status.Code(err) == codes.NotFound: // the handler's own answer: there is no such invoice
						mu.Lock()
						spent[raw] = n
						mu.Unlock()
					case handoffgrpc.ReasonOf(err) != 0:
						t.Errorf("round %d: a new token: %v", round, err)
					}
				}
			})
		}
		for made, deadline := 0, time.Now().Add(patience); made < enough; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			made = len(spent) - before
			mu.Unlock()
			if time.Now().After(deadline) {
				t.Errorf("round %d: %d redemptions in %s", round, made, patience)
				break
			}
		}
		kill()
		cancel()
		wg.Wait()
	}
}

// A journal is one process's.
func TestJournalInUse(t *testing.T) {
	t.Parallel()
	journal := newJournal(t, "50ms")
	r := startWith(t, func(s settings) { s["replay"] = journal })
	other, _ := goodSettings(t)
	other["replay"] = journal
	refused(t, other.args(), "--replay: opening the journal: "+journal+": it is in use by another process")
	req := payment("INV-404", 1, 1) // which there is not: who hears so was let through
	raw := token(t, r.issuer, payMethod, req, nil)
	if _, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw)); status.Code(err) != codes.NotFound {
		t.Error("the one that has it:", err)
	}
	_, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw))
	wantReason(t, "twice", err, handoff.ReasonTokenReplayed)
}

// TestE06: replicas that share a Redis spend a token once, whichever of them gets it and
// however often; without their Redis they refuse, say so to health, and remember
// when it is back.
func TestE06(t *testing.T) {
	t.Parallel()
	redis := servingtest.StartRedis(t)
	s, key := goodSettings(t)
	s.onRedis(redis.URL())
	issuer := newIssuer(t, key, nil)
	var replicas []*running
	for range 2 {
		s["database"] = filepath.Join(t.TempDir(), "server2.db") // so that it is the Redis that remembers
		r := start(t, s.args())
		r.connect(t, s["tls-cert"])
		replicas = append(replicas, r)
	}
	req := payment("INV-404", 1, 1)
	raw := runsOnce(t, replicas, 32, req, func() string {
		return token(t, issuer, payMethod, req, func(p *handoff.IssueParams) { p.Lifetime = handoff.MaxLifetime })
	})

	redis.Kill(t)
	_, err := replicas[0].client.PayInvoice(t.Context(), req, handoffgrpc.Token(token(t, issuer, payMethod, req, nil)))
	wantReason(t, "without a Redis", err, handoff.ReasonStoreUnavailable)
	for _, r := range replicas {
		r.health(t, healthpb.HealthCheckResponse_NOT_SERVING)
	}
	redis.Start(t)
	for i, r := range replicas {
		r.health(t, healthpb.HealthCheckResponse_SERVING)
		_, err := r.answer(t, req, raw)
		wantReason(t, fmt.Sprintf("replica %d, after the Redis was killed", i), err, handoff.ReasonTokenReplayed)
	}

	redis.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	replicas[1].health(t, healthpb.HealthCheckResponse_NOT_SERVING)
	if log := replicas[1].log.String(); !strings.Contains(log, "maxmemory-policy") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// runsOnce has callers use one token at all replicas at once, and returns a token that
// ran once. Where nobody's call ran, some were not answered in time, and a fresh token
// is tried.
func runsOnce(t *testing.T, replicas []*running, callers int, req *server2v1.PayInvoiceRequest, fresh func() string) (raw string) {
	t.Helper()
	const rounds = 10
	for round := 1; ; round++ {
		raw = fresh()
		var wg sync.WaitGroup
		var ran, unanswered atomic.Int32
		for i := range callers {
			wg.Go(func() {
				late, err := replicas[i%len(replicas)].answer(t, req, raw)
				unanswered.Add(late)
				switch {
				case status.Code(err) == codes.NotFound: // the handler's own answer
					ran.Add(1)
				case handoffgrpc.ReasonOf(err) != handoff.ReasonTokenReplayed:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if ran.Load() == 1 {
			return raw
		}
		if ran.Load() > 1 || unanswered.Load() == 0 || round == rounds {
			t.Fatalf("round %d: it ran %d times, and %d calls were not answered in time", round, ran.Load(), unanswered.Load())
		}
	}
}

// onRedis has redemptions in a Redis, with the patience of a busy machine.
func (s settings) onRedis(url string) { s["replay"], s["redis-timeout"], s["skew"] = url, "5s", "1s" }

// answer presents a token until the Redis has answered in time, which on a busy machine can
// take longer than any --redis-timeout. late counts the refusals until then: behind each, the
// token can be spent.
func (r *running) answer(t *testing.T, req *server2v1.PayInvoiceRequest, raw string) (late int32, err error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; late++ {
		_, err = r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw))
		if handoffgrpc.ReasonOf(err) != handoff.ReasonStoreUnavailable || time.Now().After(deadline) {
			return late, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A Redis that loses marks stops the start, and the line says which setting of
// its own, or which flag, to change.
func TestRedisRefused(t *testing.T) {
	t.Parallel()
	redis := servingtest.StartRedis(t)
	set := func(name, value string) func(settings) {
		return func(settings) { redis.Do(t, "CONFIG", "SET", name, value) }
	}
	flag := func(name, value string) func(settings) { return func(s settings) { s[name] = value } }
	redis.Do(t, "ACL", "SETUSER", "app", "on", ">c2VjcmV0", "~handoff:*", "+@all", "-config")
	noConfig := func(s settings) { s["replay"] = "redis://app:c2VjcmV0@" + redis.Address() }
	replica := servingtest.StartRedis(t, "--repl-diskless-sync-delay", "0")
	host, port, _ := net.SplitHostPort(redis.Address())
	follow := func(settings) {
		replica.Do(t, "REPLICAOF", host, port)
		servingtest.Eventually(t, "the replica comes", func() bool { return redis.Info(t, "connected_slaves") == "1" })
	}
	leave := func(settings) { replica.Do(t, "REPLICAOF", "NO", "ONE") }
	for _, c := range []struct {
		change, back func(settings)
		names        string
	}{
		{set("appendonly", "no"), set("appendonly", "yes"), "appendonly"},
		{set("appendfsync", "everysec"), set("appendfsync", "always"), "--redis-accept-last-second-loss"},
		{set("no-appendfsync-on-rewrite", "yes"), set("no-appendfsync-on-rewrite", "no"), "no-appendfsync-on-rewrite"},
		{set("maxmemory-policy", "volatile-ttl"), set("maxmemory-policy", "noeviction"), "maxmemory-policy"},
		{noConfig, nil, "--redis-appendfsync"},
		{func(s settings) { noConfig(s); s["redis-appendfsync"] = "everysec" }, nil, "--redis-accept-last-second-loss"},
		{follow, leave, "--redis-wait"},
		{flag("redis-wait", "1"), nil, "--redis-wait"},
		{flag("redis-wait", "-1"), nil, "--redis-wait"},
		{flag("redis-wait", "many"), nil, "--redis-wait"},
		{flag("redis-appendfsync", "no"), nil, "--redis-appendfsync"},
		{flag("redis-appendfsync", "everysec"), nil, "--redis-appendfsync"}, // it is always
		{flag("redis-timeout", "0s"), nil, "--redis-timeout"},
		{flag("redis-timeout", "5001ms"), nil, "--redis-timeout"},
		{flag("redis-ca", "/nowhere/ca.pem"), nil, "--redis-ca"},
		{flag("replay", "redis://127.0.0.1:1"), nil, "--replay"},
		{flag("replay", "redis://192.0.2.1:6379"), nil, "rediss://"},
		{flag("replay", "redis://:c2VjcmV0@[::1"), nil, "--replay"},
		{func(s settings) { s["replay"] = "rediss" + strings.TrimPrefix(redis.URL(), "redis") }, nil, "--replay"},
	} {
		s, _ := goodSettings(t)
		s["replay"] = redis.URL()
		c.change(s)
		refused(t, s.args(), c.names)
		if c.back != nil {
			c.back(s)
		}
	}
	redis.Do(t, "CONFIG", "SET", "appendfsync", "everysec")
	startWith(t, func(s settings) { s["replay"], s["redis-accept-last-second-loss"] = redis.URL(), "true" })
}

// A Redis that wants a password gets it, and no line shows it.
func TestRedisPassword(t *testing.T) {
	t.Parallel()
	redis := servingtest.StartRedis(t)
	address := redis.Address()
	redis.Do(t, "ACL", "SETUSER", "default", ">c2VjcmV0", "resetpass", ">c2VjcmV0")
	for replay, says := range map[string]string{
		"redis://" + address:                            "redis://:PASSWORD@HOST:PORT, best given by $HANDOFF_SERVER2_REPLAY",
		"redis://:c2VjcmV0eA@" + address:                "WRONGPASS",
		"redis://c2VjcmV0:c2VjcmV0@" + address:          "WRONGPASS",
		"redis://:c2VjcmV0@" + address + "/c2VjcmV0":    "--replay must be redis://",
		"redis://:c2VjcmV0@" + address + "?db=c2VjcmV0": "--replay must be redis://",
	} {
		s, _ := goodSettings(t)
		s["replay"] = replay
		refused(t, s.args(), says)
	}
	r := startWith(t, func(s settings) { s["replay"] = "redis://:c2VjcmV0@" + address })
	redis.Kill(t)
	r.health(t, healthpb.HealthCheckResponse_NOT_SERVING)
	if log := r.log.String(); !strings.Contains(log, `"msg":"redemptions"`) || strings.Contains(log, "c2VjcmV0") {
		t.Errorf("the log of its end:\n%s", log)
	}
}

// Over TLS, the Redis must be vouched for by --redis-ca.
func TestRedisOverTLS(t *testing.T) {
	t.Parallel()
	ours, other := servingtest.NewAuthority(t), servingtest.NewAuthority(t)
	certificate := filepath.Join(t.TempDir(), "redis")
	ours.Issue(t, certificate, "127.0.0.1")
	port := servingtest.HoldPort(t)
	address := port.Address()
	servingtest.StartRedis(t, "--tls-port", port.Number(), "--tls-auth-clients", "no", "--tls-ca-cert-file", ours.File,
		"--tls-cert-file", certificate+".crt", "--tls-key-file", certificate+".key")
	if _, err := x509.SystemCertPool(); err != nil { // read once: under the race detector it takes longer than a connection may
		t.Fatal(err)
	}
	for _, ca := range []string{"", other.File} {
		s, _ := goodSettings(t)
		s["replay"] = "rediss://" + address
		if ca != "" {
			s["redis-ca"] = ca
		}
		refused(t, s.args(), "certificate")
	}
	r := startWith(t, func(s settings) { s.onRedis("rediss://" + address); s["redis-ca"] = ours.File })
	req := payment("INV-404", 1, 1)
	raw := token(t, r.issuer, payMethod, req, nil)
	if _, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw)); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	_, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw))
	wantReason(t, "twice", err, handoff.ReasonTokenReplayed)
}

// A unit file may have the journal made before each start: the second time nothing is
// done to it.
func TestInitIfMissing(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "journal")
	segments := func() (found []string) {
		files, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			info, err := file.Info()
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, fmt.Sprint(file.Name(), info.Size(), info.ModTime()))
		}
		return found
	}
	var made []string
	for i := range 2 {
		var out servingtest.Log
		if code := run(t.Context(), []string{"init", "--if-missing", "--replay=" + folder}, &out, &out); code != 0 {
			t.Fatalf("status %d: %s", code, &out)
		}
		if i == 0 {
			made = segments()
		}
	}
	if now := segments(); len(made) == 0 || !slices.Equal(made, now) {
		t.Errorf("from %q to %q", made, now)
	}
	for _, place := range []string{"redis://127.0.0.1:1", "memory"} { // the unit's line is one for all
		var out servingtest.Log
		if code := run(t.Context(), []string{"init", "--if-missing", "--replay=" + place}, &out, &out); code != 0 {
			t.Errorf("%s: status %d: %s", place, code, &out)
		}
	}
}
