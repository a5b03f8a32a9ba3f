package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/scripts/internal/pair/pairtest"
)

// bin is the folder of the programs, built once for all tests.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "handoff-e2e-")
	if err != nil {
		panic(err)
	}
	bin = filepath.Join(dir, "bin")
	status := 1
	if err := pairtest.Build(bin, map[string]string{"demo": "scripts/demo"}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		status = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// progress says every few seconds how far a test has come, which shows where
// tests are told to be verbose, until done is called.
func progress(t *testing.T, how func() string) (done func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for began, tick := time.Now(), time.NewTicker(5*time.Second); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case now := <-tick.C:
				t.Logf("after %s: %s", now.Sub(began).Round(time.Second), how())
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(stop)
		<-stopped
	})
}

// program is one that this test runs, in an environment of its own.
func program(ctx context.Context, t *testing.T, name string, args ...string) (command *exec.Cmd, temporary string) {
	t.Helper()
	temporary = t.TempDir()
	command = exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	command.Env = append(os.Environ(), "TMPDIR="+temporary)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 20 * time.Second
	return command, temporary
}

// The story of `make demo`: each line goes as told, and afterwards nothing is
// left, neither a process nor a file.
func TestStory(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	demo, temporary := program(ctx, t, "demo")
	output, err := demo.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	lines := storyLine.FindAllSubmatch(output, -1)
	if len(lines) < 46 {
		t.Errorf("the story has %d lines:\n%s", len(lines), output)
	}
	for _, line := range lines {
		if string(line[1]) != "ok" {
			t.Errorf("a line went wrong: %s", line[0])
		}
	}
	for _, secret := range []string{"eyJ", "correct horse"} {
		if bytes.Contains(output, []byte(secret)) {
			t.Errorf("the story tells a secret: %q", secret)
		}
	}
	wantInStory(t, output)
	wantNothingLeft(t, temporary, output)
}

// wantInStory checks that the lines that README quotes are lines of the story.
func wantInStory(t *testing.T, story []byte) {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	quoted := 0
	for line := range strings.Lines(string(readme)) {
		if storyLine.MatchString(line) {
			quoted++
			if !bytes.Contains(story, []byte(line)) {
				t.Errorf("README quotes a line that the story does not have: %q", line)
			}
		}
	}
	if quoted < 6 {
		t.Errorf("README quotes %d lines of the story", quoted)
	}
}

// wantNothingLeft checks that a program has left no file, and no process that it
// said it had started.
func wantNothingLeft(t *testing.T, temporary string, output []byte) {
	t.Helper()
	left, err := os.ReadDir(temporary)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, pid := range pids(output) {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d still runs", pid)
		}
	}
}

var storyLine = regexp.MustCompile(`(?m)^ *\d+ (\S+) `)

// pids are the processes that the demo says it has started.
func pids(output []byte) []int {
	var found []int
	for _, match := range regexp.MustCompile(`process (\d+)`).FindAllSubmatch(output, -1) {
		if pid, err := strconv.Atoi(string(match[1])); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// The four commands that `make run` prints work as printed, and Ctrl-C leaves
// nothing.
func TestRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	demo, _ := program(ctx, t, "demo", "run")
	stdout, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	var commands [][]string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		fmt.Fprintln(&printed, lines.Text())
		if words := strings.Fields(lines.Text()); len(words) > 1 && strings.HasSuffix(words[0], "bin/demo") {
			commands = append(commands, words[1:])
		}
		if strings.Contains(lines.Text(), "Ctrl-C stops both") {
			break
		}
	}
	if len(commands) != 4 {
		t.Errorf("%d commands to copy:\n%s", len(commands), printed.String())
	}
	wantShop(ctx, t, printed.String())
	for _, words := range commands {
		command, _ := program(ctx, t, "demo", words...)
		if output, err := command.CombinedOutput(); err != nil {
			t.Errorf("demo %v: %v\n%s", words, err, output)
		}
	}
	for _, refused := range []struct{ words, reason string }{
		{"pay", ""}, // the first answer
		{"issue INV-45 0.01", ""},
		{"pay", "INVOICE_ALREADY_PAID"},
		{"sign-in mallory", "SESSION_INVALID"},
		{"sign-in alice", ""},
		{"export", "POLICY_DENIED"},
		{"issue INV-45", "expected"},
		{"issue INV-45 1,00", "amount"},
	} {
		command, _ := program(ctx, t, "demo", strings.Fields(refused.words)...)
		output, err := command.CombinedOutput()
		if (err != nil) != (refused.reason != "") || !strings.Contains(string(output), refused.reason) {
			t.Errorf("demo %s: %v, want %q:\n%s", refused.words, err, refused.reason, output)
		}
	}
	if err := demo.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		fmt.Fprintln(&printed, lines.Text())
	}
	if err := demo.Wait(); demo.ProcessState.ExitCode() != 0 {
		t.Errorf("demo run ended with %v:\n%s", err, printed.String())
	}
	if _, err := os.Stat(filepath.Join(bin, "run")); !os.IsNotExist(err) {
		t.Errorf("the pair's folder is left: %v", err)
	}
	for _, pid := range pids(printed.Bytes()) {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d still runs", pid)
		}
	}
}
