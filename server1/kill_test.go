package server1

import (
	"bufio"
	"context"
	"crypto/tls"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"modernc.org/sqlite"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/trust"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

const (
	// asProgram has this test's binary be the program.
	asProgram = "HANDOFF_TEST_AS_SERVER1"
	// asMain has it be the program to the last signal.
	asMain = "HANDOFF_TEST_AS_SERVER1_MAIN"
	// commitTakes has each commit of that program take so long, as on a slow disk.
	commitTakes = "HANDOFF_TEST_COMMIT_TAKES"
)

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	if os.Getenv(asProgram) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if takes, err := time.ParseDuration(os.Getenv(commitTakes)); err == nil {
		slowCommits(takes)
	}
	go func() { // it ends with the test, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	os.Exit(run(ctx, os.Args[1:], nil, strings.NewReader(""), os.Stdout, os.Stderr))
}

func slowCommits(takes time.Duration) {
	db, err := sql.Open("sqlite", "")
	if err != nil {
		panic(err)
	}
	db.Driver().(*sqlite.Driver).RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, _ string) error {
		conn.(sqlite.HookRegisterer).RegisterCommitHook(func() int32 { time.Sleep(takes); return 0 })
		return nil
	})
}

// process is the program in a process of its own.
type process struct {
	cmd     *exec.Cmd
	address string
	took    time.Duration // to listen
	exited  chan struct{}
}

// spawn starts a process and, unless it is to be killed before, waits until it
// listens; its address is empty if it ends instead.
func spawn(t testing.TB, settings map[string]string, wait bool, env ...string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(program, arguments("serve", settings)...), exited: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	p.cmd.Stderr = t.Output()
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan string, 1)
	go func() {
		defer close(p.exited)
		lines := bufio.NewReader(out)
		line, _ := lines.ReadString('\n')
		listening <- strings.TrimSuffix(strings.TrimPrefix(line, "listening on "), "\n")
		_, _ = io.Copy(io.Discard, lines)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	if wait {
		p.address = <-listening
		p.took = time.Since(began)
	}
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// recorder is a feed that also keeps every list it brings, by number.
type recorder struct {
	trust.Feed
	t    testing.TB
	mu   sync.Mutex
	seen map[int64]string
}

func (r *recorder) Follow(ctx context.Context, have string, deliver func(string, trust.Fetch) error) error {
	return r.Feed.Follow(ctx, have, func(raw string, fetch trust.Fetch) error {
		seq := seqOf(r.t, raw)
		r.mu.Lock()
		if before, ok := r.seen[seq]; ok && before != raw {
			r.t.Errorf("two lists have the number %d", seq)
		}
		r.seen[seq] = raw
		r.mu.Unlock()
		return deliver(raw, fetch)
	})
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

func seqOf(t testing.TB, raw string) int64 {
	_, rest, _ := strings.Cut(raw, ".")
	segment, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(segment)
	var claims struct{ Seq int64 }
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil {
		t.Errorf("a list: %v", err)
	}
	return claims.Seq
}

// dialFast returns a connection that comes back as soon as its server does.
func (s *site) dialFast(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, s.secure(), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond},
		MinConnectTimeout: 5 * time.Second,
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (s *site) secure() grpc.DialOption {
	return grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: s.pool, MinVersion: tls.VersionTLS13}))
}

// acknowledged is what the server has said yes to.
type acknowledged struct {
	mu      sync.Mutex
	revoked []*handoffv1.IssueHandoffResponse
	ended   []string       // session ids
	counts  map[string]int // of revocations, by kind

	turns atomic.Int64 // of taking something back
}

func (a *acknowledged) note(kind string, revoked *handoffv1.IssueHandoffResponse, ended string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[kind]++
	a.revoked = append(a.revoked, revoked)
	if ended != "" {
		a.ended = append(a.ended, ended)
	}
}

// kinds is how many kinds of revocation there were.
func (a *acknowledged) kinds() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.counts)
}

// use signs a user in, and out, and takes handoffs back, until the context ends.
// What fails is not noted: it may have been done or not.
func (a *acknowledged) use(ctx context.Context, t testing.TB, conn *grpc.ClientConn, user string) {
	sessions, handoffs := server1v1.NewSessionServiceClient(conn), handoffv1.NewHandoffServiceClient(conn)
	session := ""
	for ctx.Err() == nil {
		if session == "" {
			in, err := sessions.SignIn(ctx, &server1v1.SignInRequest{UserName: user, Password: password}, grpc.WaitForReady(true))
			if err != nil {
				continue
			}
			session = in.GetSession()
		}
		bearer := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+session)
		h, err := handoffs.IssueHandoff(bearer, pay(t), grpc.WaitForReady(true))
		if err != nil {
			if handoffgrpc.ReasonOf(err) == handoff.ReasonSessionInvalid {
				session = ""
			}
			continue
		}
		kind, ends := "RevokeHandoff", ""
		switch a.turns.Add(1) % 40 {
		case 7:
			kind, ends = "SignOutEverywhere", session
			_, err = sessions.SignOutEverywhere(bearer, &server1v1.SignOutEverywhereRequest{})
		case 2, 12, 22, 32:
			kind, ends = "SignOut", session
			_, err = sessions.SignOut(bearer, &server1v1.SignOutRequest{})
		default:
			_, err = handoffs.RevokeHandoff(bearer, &handoffv1.RevokeHandoffRequest{HandoffId: h.GetHandoffId()})
			if handoffgrpc.ReasonOf(err) == handoff.ReasonLimitExceeded {
				kind, ends = "SignOutEverywhere", session
				_, err = sessions.SignOutEverywhere(bearer, &server1v1.SignOutEverywhereRequest{})
			}
		}
		if err == nil {
			a.note(kind, h, ends)
		}
	}
}

// F04, F06: whenever the process is killed under load, no acknowledged revocation or
// sign-out is lost, no step of the keys that change meanwhile, and no two lists have
// the same number; and the next process is there about as soon as the first.
func TestF04Killed(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	s.underKills(t, measure.Of(3, 6, 100), func(p *process) bool {
		p.kill()
		return true
	})
}

// underKills has users revoke and sign out, and keys change by the clock and by
// hand, while kill ends things, and says whether the process is one of them.
func (s *site) underKills(t *testing.T, rounds int, kill func(*process) bool) {
	users := []string{"u0", "u1", "u2", "u3", "u4", "u5"}
	for _, user := range users {
		s.addUser(t, user, "payer")
	}
	settings := s.settings()
	for flag, value := range s.quick("lifetime", "300s", "max-lifetime", "300s", "trust-lifetime", "6s", "rotate-every", "1s", "log-level", "error") {
		if settings[flag] = value; value == "" {
			delete(settings, flag)
		}
	}
	settings["listen"] = servingtest.HoldPort(t).Address() // as its clients know it
	p := spawn(t, settings, true)
	if p.address == "" {
		t.Fatal("it does not start")
	}
	stream, err := trust.NewStreamFeed(p.address, s.secure())
	if err != nil {
		t.Fatal(err)
	}
	first := p.took
	feed := &recorder{Feed: stream, t: t, seen: map[int64]string{}}
	audience := s.follow(t, feed)
	conn := s.dialFast(t, p.address)
	said := &acknowledged{counts: map[string]int{}}
	var starts []time.Duration
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for _, user := range users {
		wg.Go(func() { said.use(ctx, t, conn, user) })
	}
	keys := s.operator(t)
	wg.Go(func() { keys.work(ctx, t) })
	probe := s.probe(t, conn)
	happened := func() bool { // of what could go wrong
		return said.kinds() >= 2 && feed.count() >= rounds && keys.count() >= max(1, rounds/10)
	}
	for round := 0; round < rounds || !happened() && round < 10*rounds; round++ {
		time.Sleep(time.Duration(100+rand.IntN(500)) * time.Millisecond)
		revoked, ended := said.soFar()
		if kill(p) {
			if rand.IntN(3) == 0 { // and one that has hardly begun
				early := spawn(t, settings, false)
				time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
				early.kill()
			}
			if p = spawn(t, settings, true); p.address == "" {
				t.Fatal("it does not start again")
			}
			starts = append(starts, p.took)
		}
		audience.newer(t)
		wantStands(t, audience, conn, revoked, ended)
		keys.wantStands(t)
		h := probe()
		if reason, _ := audience.verify(h.GetToken()); reason == handoff.ReasonTokenInvalid { // a busy machine taints late
			audience.newer(t)
			h = probe()
		}
		audience.wantAlive(t, "a new token", h)
	}
	stop()
	wg.Wait()
	lists := feed.count()
	slices.Sort(starts)
	median := starts[len(starts)/2]
	signed := keys.activations(t)
	t.Logf("acknowledged %v; %d lists; starts: the first %s, later the quickest %s, median %s, slowest %s",
		said.counts, lists, first, starts[0], median, starts[len(starts)-1])
	t.Logf("%d keys have signed; acknowledged: %d prepared, %d tainted by hand; %d commands were killed", signed, len(keys.prepared), len(keys.tainted), keys.killed)
	if starts[0] > 2*first+time.Second { // the others may have waited for a processor
		t.Errorf("even the quickest start after a kill took %s, the first %s", starts[0], first)
	}
	if !happened() {
		t.Errorf("too little has happened: %v, %d lists, %d keys", said.counts, lists, len(keys.prepared))
	}
}

// probe returns what gets a new token of a session that nobody ends.
func (s *site) probe(t *testing.T, conn *grpc.ClientConn) func() *handoffv1.IssueHandoffResponse {
	t.Helper()
	s.addUser(t, "probe", "payer")
	in, err := server1v1.NewSessionServiceClient(conn).SignIn(t.Context(), &server1v1.SignInRequest{UserName: "probe", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	ctx := with(t, "Bearer "+in.GetSession())
	return func() (h *handoffv1.IssueHandoffResponse) {
		t.Helper()
		servingtest.Eventually(t, "a handoff", func() bool {
			h, err = handoffv1.NewHandoffServiceClient(conn).IssueHandoff(ctx, pay(t), grpc.WaitForReady(true))
			return err == nil
		})
		return h
	}
}

// soFar returns what has been acknowledged by now: sessions once, tokens until they
// are dead.
func (a *acknowledged) soFar() (revoked []*handoffv1.IssueHandoffResponse, ended []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked = slices.DeleteFunc(a.revoked, dead)
	ended, a.ended = a.ended, nil
	return slices.Clone(a.revoked), ended
}

func dead(h *handoffv1.IssueHandoffResponse) bool {
	return !time.Now().Before(h.GetExpireTime().AsTime())
}

// wantStands holds the server to what it has acknowledged.
func wantStands(t *testing.T, audience *audience, conn *grpc.ClientConn, revoked []*handoffv1.IssueHandoffResponse, ended []string) {
	t.Helper()
	lost := 0
	for _, h := range revoked {
		reason, err := audience.verify(h.GetToken())
		tainted := reason == handoff.ReasonTokenInvalid                   // its key, which a busy machine has used before that was known
		if reason != handoff.ReasonTokenRevoked && !tainted && !dead(h) { // and then its key may have left, too
			lost++
			t.Logf("an acknowledged revocation: %v", err)
		}
	}
	if lost > 0 {
		t.Fatalf("%d of %d acknowledged revocations are lost", lost, len(revoked))
	}
	for _, id := range ended {
		_, err := server1v1.NewSessionServiceClient(conn).GetSession(with(t, "Bearer "+id), &server1v1.GetSessionRequest{}, grpc.WaitForReady(true))
		wantReason(t, "a session that was ended", err, handoff.ReasonSessionInvalid)
	}
}
