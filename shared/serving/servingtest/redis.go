package servingtest

import (
	"context"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/harness"
)

// RedisServer is a private Redis. Its methods are for one goroutine, except Ask and
// Do.
type RedisServer struct{ *harness.Redis }

// StartRedis starts a Redis that is stopped when the test ends. Settings are added to
// those that lose nothing: "--appendfsync", "everysec".
func StartRedis(t testing.TB, settings ...string) *RedisServer {
	t.Helper()
	r, err := harness.StartRedis(context.Background(), t.TempDir(), settings...)
	started(t, err)
	t.Cleanup(func() {
		ended(t, r.Kill)
		ended(t, r.Stop)
	})
	return &RedisServer{r}
}

// HoldPort holds a loopback port for a server, until the test ends.
func HoldPort(t testing.TB) *harness.Port {
	t.Helper()
	port, err := harness.HoldPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, port.Close) })
	return port
}

// URL is redis://127.0.0.1:PORT.
func (r *RedisServer) URL() string { return r.Redis.URL }

// Start starts a server that Kill has ended, and waits until it answers.
func (r *RedisServer) Start(t testing.TB) {
	t.Helper()
	started(t, r.Redis.Start(context.Background()))
}

// Kill ends the server, if it runs, as kill -9 does. Start starts it again, where
// it was.
func (r *RedisServer) Kill(t testing.TB) {
	t.Helper()
	ended(t, r.Redis.Kill)
}

// Stall stops the server in the middle of its work, until Continue.
func (r *RedisServer) Stall(t testing.TB) {
	t.Helper()
	ended(t, r.Redis.Stall)
}

// Continue has a server go on that Stall has stopped.
func (r *RedisServer) Continue(t testing.TB) {
	t.Helper()
	ended(t, r.Redis.Continue)
}

// Ask sends one command, as harness.Redis does.
func (r *RedisServer) Ask(words ...string) (string, error) {
	return r.Redis.Ask(context.Background(), words...)
}

// Do sends one command, whose answer must not be an error.
func (r *RedisServer) Do(t testing.TB, words ...string) string {
	t.Helper()
	answer, err := r.Ask(words...)
	if err != nil || strings.HasPrefix(answer, "-") {
		t.Fatalf("%v: %s %v", words, answer, err)
	}
	return answer
}

// Info returns what the server's INFO says of one thing, or an empty text.
func (r *RedisServer) Info(t testing.TB, name string) string {
	t.Helper()
	said, err := r.Redis.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return said[name]
}
