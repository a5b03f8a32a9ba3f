package servingtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RedisServer is a private Redis. Its methods are for one goroutine, but for Ask
// and Do.
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

// Address is 127.0.0.1:PORT, where no TLS is spoken.
func (r *RedisServer) Address() string { return r.address }

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
	cmd.Dir, cmd.SysProcAttr = r.dir, (&owner{}).attributes(syscall.SIGKILL) // which ends a stalled one, too
	file := filepath.Join(r.dir, "log")
	started, err := launch(cmd, file)
	if err != nil {
		t.Fatal(err)
	}
	r.process = started
	if started.answers(func() bool {
		answer, err := r.Ask("PING")
		return err == nil && (answer == "+PONG" || strings.HasPrefix(answer, "-NOAUTH"))
	}) {
		return "", true
	}
	r.Kill(t)
	text, _ := os.ReadFile(file)
	return string(text), false
}

// Kill ends the server, if it runs, as kill -9 does. Start starts it again, where
// it was.
func (r *RedisServer) Kill(t testing.TB) {
	t.Helper()
	r.process.end(t, syscall.SIGKILL)
	r.process = nil
}

// Stall stops the server in the midst of whatever it does, until Continue.
func (r *RedisServer) Stall(t testing.TB) { t.Helper(); r.signal(t, syscall.SIGSTOP) }

// Continue has a server go on that Stall has stopped.
func (r *RedisServer) Continue(t testing.TB) { t.Helper(); r.signal(t, syscall.SIGCONT) }

func (r *RedisServer) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := r.process.first.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Do sends one command, as Ask does, whose answer must not be an error.
func (r *RedisServer) Do(t testing.TB, words ...string) string {
	t.Helper()
	answer, err := r.Ask(words...)
	if err != nil || strings.HasPrefix(answer, "-") {
		t.Fatalf("%v: %s %v", words, answer, err)
	}
	return answer
}

// Ask sends one command on a connection of its own, and returns the answer: a
// text, or the one line of any other, such as "+OK" or ":1". An array's is the
// number of its elements, "*2".
func (r *RedisServer) Ask(words ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", r.address, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	command := fmt.Sprintf("*%d\r\n", len(words))
	for _, word := range words {
		command += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := io.WriteString(conn, command); err != nil {
		return "", err
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	line = strings.TrimSpace(line)
	length, isText := strings.CutPrefix(line, "$")
	if err != nil || !isText || length == "-1" {
		return line, err
	}
	n, err := strconv.Atoi(length)
	if err != nil {
		return "", err
	}
	text := make([]byte, n)
	_, err = io.ReadFull(in, text)
	return string(text), err
}

// Info returns what the server's INFO says of one thing, or an empty text.
func (r *RedisServer) Info(t testing.TB, name string) string {
	t.Helper()
	for line := range strings.Lines(r.Do(t, "INFO")) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
