package servingtest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RedisServer is a private Redis. Its methods are for one goroutine.
type RedisServer struct {
	program  string
	dir      string // all that it keeps, and its log
	address  string
	settings []string
	process  *process
}

// StartRedis starts a Redis that is stopped when the test ends. Its settings are
// those that lose nothing, but for what is given: "--appendfsync", "everysec".
func StartRedis(t testing.TB, settings ...string) *RedisServer {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		unavailable(t, errors.New("no Redis to test with: install Debian's package redis-server"))
	}
	r := &RedisServer{program: program, dir: t.TempDir(), settings: settings}
	t.Cleanup(func() { r.process.end(t, syscall.SIGKILL) })
	for r.process == nil {
		if r.address, err = freeAddress(); err != nil {
			t.Fatal(err)
		}
		if text, ok := r.start(t); !ok && !strings.Contains(text, "Address already in use") {
			t.Fatalf("Redis does not start:\n%s", text)
		}
	}
	return r
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// URL is redis://127.0.0.1:PORT.
func (r *RedisServer) URL() string { return "redis://" + r.address }

// Start starts a server that Kill has ended, and waits until it answers.
func (r *RedisServer) Start(t testing.TB) {
	t.Helper()
	if text, ok := r.start(t); !ok {
		t.Fatalf("Redis does not start:\n%s", text)
	}
}

// start returns the log of a server that does not start.
func (r *RedisServer) start(t testing.TB) (log string, ok bool) {
	t.Helper()
	host, port, _ := net.SplitHostPort(r.address)
	cmd := exec.Command(r.program, append([]string{
		"--bind", host, "--port", port, "--dir", r.dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always",
	}, r.settings...)...)
	cmd.Dir, cmd.SysProcAttr = r.dir, (&owner{}).attributes()
	file := filepath.Join(r.dir, "log")
	started, err := launch(cmd, file)
	if err != nil {
		t.Fatal(err)
	}
	r.process = started
	if started.answers(func() bool { answer, err := r.ask("PING"); return err == nil && answer == "+PONG" }) {
		return "", true
	}
	r.Kill(t)
	text, _ := os.ReadFile(file)
	return string(text), false
}

// Kill ends the server as kill -9 does. Start starts it again, where it was.
func (r *RedisServer) Kill(t testing.TB) {
	t.Helper()
	r.process.end(t, syscall.SIGKILL)
	r.process = nil
}

// Do sends one command without spaces in its words, and returns the first line of
// the answer, which must not be an error.
func (r *RedisServer) Do(t testing.TB, words ...string) string {
	t.Helper()
	answer, err := r.ask(words...)
	if err != nil || strings.HasPrefix(answer, "-") {
		t.Fatalf("%v: %s %v", words, answer, err)
	}
	return answer
}

func (r *RedisServer) ask(words ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", r.address, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(conn, "%s\r\n", strings.Join(words, " ")); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(answer), err
}
