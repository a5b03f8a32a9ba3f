package pair

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

// Redis is a redis-server of one's own on a loopback port, set up so that
// redemptions can be kept in it: it writes each down before it answers, and
// forgets none to make room.
type Redis struct {
	// URL is what SERVER2's --replay is given.
	URL string

	dir, address string
	settings     []string
	process      *Process
}

// StartRedis starts a redis-server that keeps its data in a folder, which is
// made. Its settings are those that lose nothing, but for what is given:
// "--appendfsync", "everysec". The error is exec.ErrNotFound where there is no
// such program.
func StartRedis(ctx context.Context, dir string, settings ...string) (*Redis, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	r := &Redis{URL: "redis://" + address, dir: dir, address: address, settings: settings}
	return r, r.Start(ctx)
}

// Start starts a Redis that Kill has ended, where it was and with what it had,
// and waits until it answers.
func (r *Redis) Start(ctx context.Context) error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("install Debian's package redis-server: %w", err)
	}
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		return err
	}
	log := filepath.Join(r.dir, "redis.log")
	r.process, _, err = launch("redis-server", log, program, nil, append([]string{
		"--bind", host, "--port", port, "--dir", r.dir, "--logfile", log, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction",
	}, r.settings...)...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for !r.answers(ctx) {
		select {
		case <-r.process.exited:
			return fmt.Errorf("redis-server stopped at once: %s", lastLine(log))
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("redis-server does not answer: %s", lastLine(log)), r.process.Kill())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// answers says whether the Redis has read its data and takes commands.
func (r *Redis) answers(ctx context.Context) bool {
	answer, err := r.ask(ctx, "PING")
	return err == nil && answer == "+PONG"
}

// Info returns what the Redis says of itself, by name: used_memory.
func (r *Redis) Info(ctx context.Context) (map[string]string, error) {
	text, err := r.ask(ctx, "INFO")
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

// ask sends one word on a connection of its own, and returns the text that it is
// answered by, or the line.
func (r *Redis) ask(ctx context.Context, command string) (string, error) {
	connection, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", r.address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(connection, command+"\r\n"); err != nil {
		return "", err
	}
	answer := bufio.NewReader(connection)
	line, err := answer.ReadString('\n')
	line = strings.TrimSpace(line)
	length, isText := strings.CutPrefix(line, "$")
	if err != nil || !isText {
		return line, err
	}
	n, err := strconv.Atoi(length)
	if err != nil {
		return "", err
	}
	text := make([]byte, n)
	_, err = io.ReadFull(answer, text)
	return string(text), err
}

// Address is where the Redis listens: host:port.
func (r *Redis) Address() string { return r.address }

// Pid is the process's id.
func (r *Redis) Pid() int { return r.process.Pid() }

// Kill ends the Redis at once, as kill -9 does.
func (r *Redis) Kill() error { return r.process.Kill() }

// Stall stops the Redis in the midst of whatever it does; Continue has it go on.
func (r *Redis) Stall() error { return r.process.command.Process.Signal(syscall.SIGSTOP) }

// Continue has a Redis go on that Stall has stopped.
func (r *Redis) Continue() error { return r.process.command.Process.Signal(syscall.SIGCONT) }

// Stop ends the Redis, and returns an error unless it ended well.
func (r *Redis) Stop() error { return r.process.Stop() }
