package harness

import (
	"bufio"
	"context"
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
	"time"
)

// Redis is a private redis-server on a loopback port, set up so that redemptions can
// be kept in it: it writes each down before it answers, and forgets none to make
// room.
type Redis struct {
	// URL is redis://127.0.0.1:PORT.
	URL string

	dir      string // all that it keeps, and its log
	port     *Port
	settings []string
	process  *Process
}

// StartRedis starts a redis-server that keeps its data in a folder, which is made.
// Settings are added to those that lose nothing: "--appendfsync", "everysec".
// errors.Is finds exec.ErrNotFound in the error where none is installed.
func StartRedis(ctx context.Context, dir string, settings ...string) (*Redis, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	port, err := HoldPort()
	if err != nil {
		return nil, err
	}
	r := &Redis{URL: "redis://" + port.Address(), dir: dir, port: port, settings: settings}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.port.Close())
	}
	return r, nil
}

// Start starts a Redis that Kill has ended, where it was and with what it had, and
// waits until it answers.
func (r *Redis) Start(ctx context.Context) error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return missing("Redis", "redis-server")
	}
	host, port, err := net.SplitHostPort(r.Address())
	if err != nil {
		return err
	}
	cmd := exec.Command(program, append([]string{
		"--bind", host, "--port", port, "--dir", r.dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction",
	}, r.settings...)...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = r.dir, environment(), Attributes(syscall.SIGKILL) // which ends a stalled one, too
	if r.process, err = Launch(cmd, filepath.Join(r.dir, "log")); err != nil {
		return err
	}
	return r.process.answers("Redis", func() bool {
		answer, err := r.Ask(ctx, "PING")
		return err == nil && (answer == "+PONG" || strings.HasPrefix(answer, "-NOAUTH"))
	})
}

// Address is where the Redis listens: 127.0.0.1:PORT.
func (r *Redis) Address() string { return r.port.Address() }

// Pid is the process's id.
func (r *Redis) Pid() int { return r.process.Pid() }

// Kill ends the Redis, if it runs, as kill -9 does.
func (r *Redis) Kill() error { return r.end(syscall.SIGKILL) }

// Stall stops the Redis in the middle of its work; Continue has it go on.
func (r *Redis) Stall() error { return r.process.Signal(stopSignal) }

// Continue has a Redis go on that Stall has stopped.
func (r *Redis) Continue() error { return r.process.Signal(continueSignal) }

// Stop ends the Redis. What it kept stays in its folder.
func (r *Redis) Stop() error { return errors.Join(r.end(syscall.SIGTERM), r.port.Close()) }

func (r *Redis) end(with syscall.Signal) error {
	err := r.process.End(with)
	r.process = nil
	return err
}

// Info returns what the Redis says of itself, by name: used_memory.
func (r *Redis) Info(ctx context.Context) (map[string]string, error) {
	text, err := r.Ask(ctx, "INFO")
	if err != nil {
		return nil, err
	}
	said := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			said[name] = value
		}
	}
	return said, nil
}

// Ask sends one command on a connection of its own, and returns the answer: a text,
// or the one line of any other, such as "+OK" or ":1". An array's is the number of
// its elements, "*2".
func (r *Redis) Ask(ctx context.Context, words ...string) (string, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", r.Address())
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
