package pair

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/handoff-auth/handoff/shared/serving/harness"
)

// Process is one running server.
type Process struct {
	*harness.Process
	// Name is what it is called in messages: SERVER1.
	Name string
	// Address is where it listens for gRPC: host:port.
	Address string
	// Web is where it listens for browsers: host:port. Empty: it does not.
	Web string
	// Log is the file that its standard error goes to.
	Log string

	stop sync.Once
}

// startProcess starts a server and waits until it has said where it listens; with
// --http among args, for browsers as well. The servers outlive a Ctrl-C at the
// terminal, and die with this process.
func startProcess(ctx context.Context, name, log, program string, args ...string) (*Process, error) {
	said := make(chan string, 4)
	command := exec.Command(program, args...)
	command.Env, command.SysProcAttr, command.Stdout = cleanEnvironment(), harness.Attributes(syscall.SIGKILL), &printed{said: said}
	running, err := harness.Launch(command, log)
	if err != nil {
		return nil, fmt.Errorf("%s did not start: %w", name, err)
	}
	p := &Process{Process: running, Name: name, Log: log}
	patience, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for p.Address == "" || p.Web == "" && slices.Contains(args, "--http") {
		select {
		case line := <-said:
			if at, ok := strings.CutPrefix(line, "listening on "); ok {
				p.Address = at
			} else if at, ok := strings.CutPrefix(line, "https on "); ok {
				p.Web = at
			}
		case <-p.Exited():
			return nil, fmt.Errorf("%s stopped at once: %s", name, lastLine(log))
		case <-patience.Done():
			return nil, errors.Join(fmt.Errorf("%s did not say where it listens: %s", name, lastLine(log)), p.Kill())
		}
	}
	return p, nil
}

// printed passes on the first lines that a program prints.
type printed struct {
	said chan<- string
	rest string
}

func (p *printed) Write(b []byte) (int, error) {
	p.rest += string(b)
	for {
		line, rest, ok := strings.Cut(p.rest, "\n")
		if !ok {
			return len(b), nil
		}
		p.rest = rest
		select {
		case p.said <- line:
		default: // nobody waits for what it says later
		}
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.Exited():
		return true
	default:
		return false
	}
}

// Stop asks the process to end as an operator would, and kills it if it has not
// ended after a while. It returns an error unless the process ended well.
func (p *Process) Stop() error {
	p.stop.Do(func() { _ = p.Signal(syscall.SIGTERM) })
	select {
	case <-p.Exited():
	case <-time.After(15 * time.Second):
		return errors.Join(fmt.Errorf("%s did not stop in 15 s", p.Name), p.Kill())
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("%s ended with %w: %s", p.Name, err, lastLine(p.Log))
	}
	return nil
}

// Kill ends the process at once, as kill -9 does.
func (p *Process) Kill() error { return p.End(syscall.SIGKILL) }

// run runs a program to its end and returns what it printed.
func run(ctx context.Context, input string, program string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, program, args...)
	command.Env = cleanEnvironment()
	command.Stdin = strings.NewReader(input)
	var complaint strings.Builder
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), args[0], err, strings.TrimSpace(complaint.String()))
	}
	return string(output), nil
}

// cleanEnvironment is the environment without settings of the servers: the demo
// says all of them itself.
func cleanEnvironment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "HANDOFF_") {
			kept = append(kept, variable)
		}
	}
	return kept
}

// lastLine returns the last line of a log, for a message.
func lastLine(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return lines[len(lines)-1]
}
