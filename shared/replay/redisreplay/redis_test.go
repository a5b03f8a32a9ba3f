package redisreplay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

const (
	// unhurried is the longest that a redemption may take: the machine may be busy.
	unhurried = 5 * time.Second
	// patience is how long such a machine may take for what is soon done.
	patience = 30 * time.Second
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// redis is a redis-server of a test's own.
type redis struct {
	testing.TB
	server *servingtest.RedisServer
	port   string
}

// start starts a redis-server that keeps all marks unless the settings say otherwise, and
// ends with the test.
func start(t testing.TB, settings ...string) *redis {
	t.Helper()
	r := &redis{TB: t, server: servingtest.StartRedis(t, append([]string{"--repl-diskless-sync-delay", "0"}, settings...)...)}
	_, r.port, _ = net.SplitHostPort(r.server.Address())
	return r
}

func (r *redis) run()   { r.Helper(); r.server.Start(r.TB) }
func (r *redis) kill()  { r.Helper(); r.server.Kill(r.TB) }
func (r *redis) stall() { r.Helper(); r.server.Stall(r.TB) }
func (r *redis) cont()  { r.Helper(); r.server.Continue(r.TB) }

func (r *redis) url() string { return r.server.URL() }

func (r *redis) do(command ...string) string { r.Helper(); return r.server.Do(r.TB, command...) }
func (r *redis) info(name string) string     { r.Helper(); return r.server.Info(r.TB, name) }

// age makes the Redis's epoch a minute old, so that tokens issued now are
// accepted.
func (r *redis) age() *redis {
	r.Helper()
	began := strconv.FormatInt(time.Now().Add(-time.Minute).UnixMilli(), 10)
	r.do("SET", "handoff:epoch", began+" "+r.info("run_id")+" test 0")
	return r
}

// marks returns how many the Redis has.
func (r *redis) marks() string {
	r.Helper()
	return r.do("EVAL", `local n = 0
		for _, set in ipairs(redis.call('KEYS', 'handoff:spent:*')) do n = n + redis.call('SCARD', set) end
		return n`, "0")
}

// opened is a store with what it tells.
type opened struct {
	*redisreplay.Store
	mu     sync.Mutex
	events []replay.EventKind
}

// open opens a store which, unless told, waits as long as it can.
func open(t testing.TB, c redisreplay.Config) *opened {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = unhurried
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

// refused checks that r is refused, for any reason.
func refused(t testing.TB, s handoff.Store, r handoff.Redemption) {
	t.Helper()
	if s.Redeem(context.Background(), r) == nil {
		t.Error("redeemed, want a refusal")
	}
}

// recovers waits until s redeems again.
func recovers(t testing.TB, s handoff.Store) {
	t.Helper()
	began := time.Now()
	for {
		err := s.Redeem(context.Background(), token())
		if err == nil {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("not within %s: %v", patience, err)
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

// change sets that too, and what each piece of the answers becomes on its way.
func (p *proxy) change(r *redis, reply func([]byte) []byte) {
	p.pass(r, func(from io.Reader, to io.Writer) {
		buf := make([]byte, 1<<16)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			to.Write(reply(buf[:n]))
		}
	})
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
