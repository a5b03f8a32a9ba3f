package servingtest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

const patience = time.Minute // of a busy machine

// process is a server's process, with the ones that it starts.
type process struct {
	first  *os.Process
	exited chan struct{} // closed when the last of them has ended
}

// launch starts a server whose messages go to a file. The kernel ends it with the
// thread that started it, so that thread waits for it. The file is written through
// a pipe, which ends with the last of the server's processes, not with the first.
func launch(cmd *exec.Cmd, log string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd.Env = environment()
	cmd.Stdout = struct{ io.Writer }{file}
	cmd.Stderr = cmd.Stdout
	p := &process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(p.exited)
		defer file.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.first = cmd.Process
	return p, nil
}

// environment is no more than the programs need: none of the user's variables.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

// answers asks until the server answers, and is false if it ends instead.
func (p *process) answers(ask func() bool) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if ask() {
			return true
		}
		select {
		case <-p.exited:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// end sends a signal to the server, if there is one, and waits for its end.
func (p *process) end(t testing.TB, with syscall.Signal) {
	t.Helper()
	if p == nil {
		return
	}
	if err := p.first.Signal(with); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Errorf("%d does not end: %v", p.first.Pid, p.first.Kill())
	}
}

// unavailable skips the test, or fails it where nothing may be skipped.
func unavailable(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("HANDOFF_CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}
