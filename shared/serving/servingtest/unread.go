package servingtest

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Unread runs the test's own binary as a program, with a variable set that has it be
// the program, in a process whose output nobody reads once it listens: the reader of
// its log has gone away. SIGHUP comes as well. call is made then, at the address that
// the program has announced, and must make it write to its log. The program must end
// with SIGTERM, in order.
func Unread(t testing.TB, variable string, args []string, call func(address string)) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := exec.Command(binary, args...)
	program.Env = append(os.Environ(), variable+"=1")
	stdout, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := program.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	defer program.Process.Kill() //nolint:errcheck // it has ended, unless the test has failed
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		said, _ := bufio.NewReader(stderr).ReadString(0)
		t.Fatalf("it says %q, %v, and logs %s", line, err, said)
	}
	stdout.Close()
	stderr.Close()
	for range 3 {
		if err := program.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		call(address)
	}
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil {
		t.Errorf("it ends with %v, not in order", err)
	}
}
