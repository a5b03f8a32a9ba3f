package servingtest

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Unread runs the test's own binary as a program, with a variable set that has it be
// the program, in processes whose log nobody reads: of one the reader goes away once it
// listens, of another the reader stays, and the pipe is full from the start. SIGHUP comes
// as well. call is made then, at the address that the program has announced, and must
// make it write to its log. The program must end with SIGTERM, in order.
func Unread(t *testing.T, variable string, args []string, call func(t *testing.T, address string)) {
	t.Run("reader gone", func(t *testing.T) { unread(t, variable, args, call, (*os.File).Close) })
	t.Run("reader stays", func(t *testing.T) { unread(t, variable, args, call, nil) })
}

// unread runs the program. leave is what the reader of the log does once it listens; nil:
// they have never read.
func unread(t *testing.T, variable string, args []string, call func(t *testing.T, address string), leave func(*os.File) error) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if leave == nil {
		fill(t, stderr)
	}
	program := exec.Command(binary, args...)
	program.Env = append(os.Environ(), variable+"=1")
	program.Stderr = stderr
	stdout, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	stderr.Close()
	// One that hangs ends with this, and the test fails.
	defer time.AfterFunc(patience, func() { _ = program.Process.Kill() }).Stop()
	defer program.Process.Kill() //nolint:errcheck // it has ended, unless the test has failed
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		_ = program.Process.Kill()
		said, _ := io.ReadAll(log)
		t.Fatalf("it says %q, %v, and logs %s", line, err, strings.TrimLeft(string(said), "\x00"))
	}
	stdout.Close()
	if leave != nil {
		_ = leave(log)
	}
	for range 3 {
		if err := program.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		call(t, address)
	}
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil {
		t.Errorf("it ends with %v, not in order", err)
	}
}

// fill writes to a pipe until nothing more goes in.
func fill(t *testing.T, pipe *os.File) {
	t.Helper()
	for full := false; !full; {
		if err := pipe.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := pipe.Write(make([]byte, 1<<20))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		full = n == 0
	}
}
