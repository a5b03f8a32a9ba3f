package pair

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one running server.
type Process struct {
	// Name is what it is called in messages: SERVER1.
	Name string
	// Address is where it listens: host:port.
	Address string
	// Log is the file that its standard error goes to.
	Log string

	command *exec.Cmd
	exited  chan struct{}
	err     error // of Wait, once exited is closed
	stop    sync.Once
}

// launch starts a process, and returns with it the addresses that it says it
// listens on. Its attributes are processAttributes unless there are others.
func launch(name, log, program string, attributes *syscall.SysProcAttr, args ...string) (*Process, <-chan string, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	p := &Process{Name: name, Log: log, command: exec.Command(program, args...), exited: make(chan struct{})}
	p.command.Stderr = file
	p.command.Env = cleanEnvironment()
	// The servers outlive a Ctrl-C at the terminal, and die with this process.
	p.command.SysProcAttr = cmp.Or(attributes, processAttributes())
	output, err := p.command.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, nil, fmt.Errorf("%s did not start: %w", name, err)
	}
	address := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if at, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
				address <- at
			}
		}
		p.err = p.command.Wait()
		close(p.exited)
	}()
	return p, address, nil
}

// startProcess starts a server and waits until it has said where it listens.
func startProcess(ctx context.Context, name, log, program string, args ...string) (*Process, error) {
	p, address, err := launch(name, log, program, nil, args...)
	if err != nil {
		return nil, err
	}
	patience, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	select {
	case p.Address = <-address:
		return p, nil
	case <-p.exited:
		return nil, fmt.Errorf("%s stopped at once: %s", name, lastLine(log))
	case <-patience.Done():
		return nil, errors.Join(fmt.Errorf("%s did not say where it listens: %s", name, lastLine(log)), p.Kill())
	}
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.command.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

func (p *Process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Stop asks the process to end as an operator would, and kills it if it has not
// ended after a while. It returns an error unless the process ended well.
func (p *Process) Stop() error {
	p.stop.Do(func() { _ = p.command.Process.Signal(syscall.SIGTERM) })
	select {
	case <-p.exited:
	case <-time.After(15 * time.Second):
		return errors.Join(fmt.Errorf("%s did not stop in 15 s", p.Name), p.Kill())
	}
	if p.err != nil {
		return fmt.Errorf("%s ended with %w: %s", p.Name, p.err, lastLine(p.Log))
	}
	return nil
}

// Kill ends the process at once, as kill -9 does.
func (p *Process) Kill() error {
	if err := p.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.exited
	return nil
}

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
