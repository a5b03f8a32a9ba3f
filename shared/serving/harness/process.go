package harness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// patience is how long a busy machine has to start a server, or to end one.
const patience = time.Minute

// Process is a running program, with the ones that it starts. It is safe for
// concurrent use.
type Process struct {
	log    string
	first  *os.Process
	exited chan struct{} // closed when the last of them has ended
	err    error         // of Wait, once exited is closed
}

// Launch starts a program whose messages are added to the file log, and its output
// too unless the command says where that goes. It dies with this process, however
// that ends: the kernel ends it with the thread that started it, so that thread
// waits for it. The file is written through a pipe, which ends with the last of the
// program's processes, not with the first.
func Launch(cmd *exec.Cmd, log string) (*Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = struct{ io.Writer }{file}
	if cmd.Stdout == nil {
		cmd.Stdout = cmd.Stderr
	}
	p := &Process{log: log, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(p.exited)
		defer file.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.first = cmd.Process
	return p, nil
}

// Attributes start a program out of the terminal's reach, and end it with this
// process by a signal, where the system can do that.
func Attributes(end syscall.Signal) *syscall.SysProcAttr { return (&owner{}).attributes(end) }

// Pid is the id of the process that was started.
func (p *Process) Pid() int { return p.first.Pid }

// Exited is closed when the last of the processes has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err is why the process that was started did not end well, once Exited is closed.
func (p *Process) Err() error { return p.err }

// Signal sends a signal to the process that was started. It is no error if that has
// ended.
func (p *Process) Signal(with syscall.Signal) error {
	if err := p.first.Signal(with); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// End sends a signal, and waits until the last of the processes has ended. After a
// minute it kills the one that was started, and returns an error. Without a process
// it does nothing.
func (p *Process) End(with syscall.Signal) error {
	if p == nil {
		return nil
	}
	if err := p.Signal(with); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("process %d does not end", p.Pid()), p.first.Kill())
	}
}

// answers asks until the server answers. It is an error if the server ends instead.
func (p *Process) answers(name string, ask func() bool) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if ask() {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s stopped at once:\n%s", name, p.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return errors.Join(fmt.Errorf("%s does not answer:\n%s", name, p.Log()), p.End(syscall.SIGKILL))
}

// Log returns what the program has written to its log.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// environment is no more than the programs need: none of the user's variables.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

// missing is the error where a program is not installed. errors.Is finds
// exec.ErrNotFound in it.
func missing(program, debian string) error {
	return fmt.Errorf("no %s here: install Debian's package %s: %w", program, debian, exec.ErrNotFound)
}
