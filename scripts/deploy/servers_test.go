package deploy

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// patience is for a busy machine.
const patience = time.Minute

// programs has both servers, as the Dockerfile builds them.
var programs = sync.OnceValues(func() (string, error) {
	into, err := os.MkdirTemp("", "handoff-deploy")
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join("container", "Dockerfile"))
	if err != nil {
		return "", err
	}
	lines := regexp.MustCompile(`(?m)^RUN CGO_ENABLED=0 go (build .*)$`).FindAllStringSubmatch(string(text), -1)
	if len(lines) != 2 {
		return "", fmt.Errorf("the Dockerfile has %d lines that build, want 2", len(lines))
	}
	lines = append(lines, []string{"", "build -trimpath -o /out/handoff ./shared/cmd/handoff"})
	for _, line := range lines {
		command := exec.Command("go", strings.Fields(strings.Replace(line[1], "/out/", into+"/", 1))...)
		command.Dir, command.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return into, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if into, err := programs(); err == nil {
		_ = os.RemoveAll(into)
	}
	os.Exit(code)
}

// built returns the path of a server.
func built(t *testing.T, server string) string {
	t.Helper()
	into, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(into, "handoff-"+server)
}

// Nothing is needed beside the programs: no loader, no libc.
func TestProgramsAreStatic(t *testing.T) {
	for _, server := range []string{"server1", "server2"} {
		file, err := elf.Open(built(t, server))
		var format *elf.FormatError
		if errors.As(err, &format) {
			t.Skip("not a system with ELF")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if libraries, _ := file.ImportedLibraries(); file.Section(".interp") != nil || len(libraries) > 0 {
			t.Errorf("%s needs a loader, or %v", server, libraries)
		}
	}
}

// scene is what an operator has before the first start.
type scene struct {
	authority *servingtest.Authority
	folder    string // with tls.crt, tls.key, trust.key, trust.jwks, ca.pem, clients.pem and policy.json
}

const policy = `{"audiences": {"https://billing.example": {"target": "127.0.0.1:8442", "methods": {
	"/handoff.server2.v1.InvoiceService/PayInvoice": {"roles": ["payer"]}}}}}`

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{authority: servingtest.NewAuthority(t), folder: t.TempDir()}
	s.authority.Issue(t, filepath.Join(s.folder, "tls"), "127.0.0.1")
	key, err := signkey.Generate(handoff.EdDSA)
	if err == nil {
		err = key.Save(filepath.Join(s.folder, "trust.key"))
	}
	if err != nil {
		t.Fatal(err)
	}
	public, err := keyset.New(key.Key())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(public)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "trust.jwks", string(text))
	s.write(t, "policy.json", policy)
	for _, name := range []string{"ca.pem", "clients.pem"} {
		s.write(t, name, read(t, s.authority.File))
	}
	return s
}

func (s *scene) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.folder, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// server is one that runs.
type server struct {
	process *os.Process
	address string
	log     *servingtest.Log
}

// start runs a command with only this environment until the test ends, and waits for its
// address.
func start(t *testing.T, env []string, command ...string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	run := exec.CommandContext(ctx, command[0], command[1:]...)
	run.Cancel = func() error { return run.Process.Signal(os.Interrupt) }
	run.Dir, run.Env = "/", append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	s := &server{log: &servingtest.Log{}}
	run.Stderr = s.log
	stdout, err := run.StdoutPipe()
	if err == nil {
		err = run.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s.process = run.Process
	t.Cleanup(func() {
		cancel()
		if err := run.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%v: %v: %s", command, err, s.log)
		}
	})
	lines := bufio.NewReader(stdout)
	line, _ := lines.ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		t.Fatalf("%v says %q: %s", command, line, s.log)
	}
	go io.Copy(io.Discard, lines)
	s.address = address
	return s
}

// until runs a command until it succeeds.
func until(t *testing.T, what string, env []string, command ...string) {
	t.Helper()
	var out bytes.Buffer
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		run := exec.Command(command[0], command[1:]...)
		out.Reset()
		run.Dir, run.Env, run.Stderr = "/", append([]string{"PATH=" + os.Getenv("PATH")}, env...), &out
		if run.Run() == nil {
			return
		}
	}
	t.Fatalf("%s: %s", what, &out)
}
