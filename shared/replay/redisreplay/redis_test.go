package redisreplay_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// redis is a redis-server of a test's own, in a folder of its own.
type redis struct {
	testing.TB
	port string
	args []string
	cmd  *exec.Cmd
}

// safe is how a redis-server must be set up.
func safe() []string { return []string{"--appendonly", "yes", "--appendfsync", "always"} }

// start starts a redis-server with the settings, which ends with the test.
func start(t testing.TB, settings ...string) *redis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed: apt-get install redis-server")
	}
	r := &redis{TB: t, port: freePort(t)}
	r.args = append([]string{
		"--port", r.port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--logfile", "redis.log", "--repl-diskless-sync-delay", "0",
	}, settings...)
	r.run()
	t.Cleanup(r.kill)
	return r
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// run starts the process and waits until it answers.
func (r *redis) run() {
	r.Helper()
	r.cmd = exec.Command("redis-server", r.args...)
	if err := r.cmd.Start(); err != nil {
		r.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if answer, err := r.try("PING"); err == nil && (answer == "+PONG" || strings.HasPrefix(answer, "-NOAUTH")) {
			return
		}
		if time.Now().After(deadline) {
			r.Fatal("redis-server does not answer")
		}
	}
}

// kill ends the process as a crash does.
func (r *redis) kill() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		r.cmd.Wait()
		r.cmd = nil
	}
}

func (r *redis) signal(s syscall.Signal) {
	r.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.Fatal(err)
	}
}

// stall stops the process for the rest of the test, or until cont.
func (r *redis) stall() { r.signal(syscall.SIGSTOP) }
func (r *redis) cont()  { r.signal(syscall.SIGCONT) }

func (r *redis) url() string { return "redis://127.0.0.1:" + r.port }

// try sends one command on a connection of its own and returns the first line of
// its answer, and the text after it where the answer is one.
func (r *redis) try(command ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+r.port, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(conn, "*%d\r\n", len(command))
	for _, word := range command {
		fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(word), word)
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	line = strings.TrimSpace(line)
	if err != nil || !strings.HasPrefix(line, "$") || line == "$-1" {
		return line, err
	}
	n, err := strconv.Atoi(line[1:])
	if err != nil {
		return "", err
	}
	text := make([]byte, n)
	_, err = io.ReadFull(in, text)
	return string(text), err
}

func (r *redis) do(command ...string) string {
	r.Helper()
	answer, err := r.try(command...)
	if err != nil || strings.HasPrefix(answer, "-") {
		r.Fatalf("%v: %s %v", command, answer, err)
	}
	return answer
}

// info returns one line's value of INFO.
func (r *redis) info(name string) string {
	r.Helper()
	for line := range strings.Lines(r.do("INFO")) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// age makes the Redis's epoch a minute old, so that tokens issued now are
// accepted.
func (r *redis) age() *redis {
	r.Helper()
	began := strconv.FormatInt(time.Now().Add(-time.Minute).UnixMilli(), 10)
	r.do("SET", "handoff:epoch", began+" "+r.info("run_id")+" test")
	return r
}

// opened is a store with what it tells.
type opened struct {
	*redisreplay.Store
	mu     sync.Mutex
	events []replay.EventKind
}

// open opens a store which, unless told, waits as long as it can: the machine may
// be busy.
func open(t testing.TB, c redisreplay.Config) *opened {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	s := new(opened)
	c.Observe = func(e replay.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, e.Kind)
	}
	store, err := redisreplay.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s.Store = store
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *opened) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.events)
}

// token returns a token issued now.
func token() handoff.Redemption {
	now := time.Now().Truncate(time.Second)
	return handoff.Redemption{Issuer: "https://shop.example", ID: handoff.NewID(), IssuedAt: now, Expires: now.Add(time.Minute)}
}

func redeem(t testing.TB, s handoff.Store, r handoff.Redemption, want error) {
	t.Helper()
	if err := s.Redeem(context.Background(), r); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// refused checks that r is refused, for whatever reason.
func refused(t testing.TB, s handoff.Store, r handoff.Redemption) {
	t.Helper()
	if s.Redeem(context.Background(), r) == nil {
		t.Error("redeemed, want a refusal")
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// recovers waits until s redeems again.
func recovers(t testing.TB, s handoff.Store, within time.Duration) {
	t.Helper()
	began := time.Now()
	for {
		err := s.Redeem(context.Background(), token())
		if err == nil {
			return
		}
		if time.Since(began) > within {
			t.Fatalf("not within %s: %v", within, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// proxy stands between a store and a Redis, on a port that stays.
type proxy struct {
	testing.TB
	listener net.Listener
	wait     sync.WaitGroup

	mu      sync.Mutex
	target  string
	conns   map[net.Conn]bool
	replies func(from io.Reader, to io.Writer) // how answers are passed on; nil: as they are
}

func newProxy(t testing.TB, r *redis) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{TB: t, listener: l, target: r.port, conns: map[net.Conn]bool{}}
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.wait.Wait()
	})
	return p
}

func (p *proxy) url() string { return "redis://" + p.listener.Addr().String() }

// pass sets where new connections go, and how answers come back.
func (p *proxy) pass(r *redis, replies func(io.Reader, io.Writer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target, p.replies = r.port, replies
}

// cut ends every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		replies := p.replies
		server, err := net.Dial("tcp", "127.0.0.1:"+p.target)
		if err != nil {
			client.Close()
			p.mu.Unlock()
			continue
		}
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		if replies == nil {
			replies = func(from io.Reader, to io.Writer) { io.Copy(to, from) }
		}
		p.wait.Go(func() {
			io.Copy(server, client)
			server.Close()
		})
		p.wait.Go(func() {
			replies(server, client)
			client.Close()
			server.Close()
		})
	}
}
