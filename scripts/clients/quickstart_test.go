package clients

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

// README's quick start does what it says when it is pasted, in a folder that has nothing
// but the repository's files. Its ports are its own: 8441 and 8442.
func TestQuickStart(t *testing.T) {
	if os.Getenv("HANDOFF_CLIENTS") == "" {
		t.Skip("make clients runs it")
	}
	for _, address := range []string{"127.0.0.1:8441", "127.0.0.1:8442"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("the quick start needs %s, which is taken: %v", address, err)
		}
		listener.Close()
	}
	top, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(top, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for _, name := range []string{"Makefile", "go.mod", "go.sum", "proto", "scripts", "server1", "server2", "shared"} {
		if err := os.Symlink(filepath.Join(top, name), filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	tool := filepath.Join(folder, "tools", "grpcurl")
	build := exec.Command("go", "build", "-modfile="+filepath.Join("scripts", "tools", "go.mod"), "-o", tool, "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	build.Dir = top
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building grpcurl: %v\n%s", err, output)
	}
	_, section, _ := strings.Cut(string(text), "\n## Quick start\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var pasted strings.Builder
	pasted.WriteString("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nlistening() { for i in {1..100}; do (exec 3<>/dev/tcp/127.0.0.1/8441) 2>/dev/null && return; sleep 0.1; done; }\n")
	for _, block := range strings.Split(section, "```sh\n")[1:] {
		lines, _, _ := strings.Cut(block, "```")
		pasted.WriteString(lines)
	}
	for told, instead := range map[string]string{
		"--role payer #":   "--role payer <<<'" + pair.Password + "' | tee added #",
		"-owner USER_ID":   `-owner "$(sed 's/.*: id \([^,]*\),.*/\1/' added)"`,
		`"PASSWORD"`:       `"` + pair.Password + `"`,
		"--reflection &\n": "--reflection &\nlistening\n",
	} {
		if strings.Count(pasted.String(), told) != 1 {
			t.Fatalf("the quick start has not one %q", told)
		}
		changed := strings.Replace(pasted.String(), told, instead, 1)
		pasted.Reset()
		pasted.WriteString(changed)
	}
	script := pasted.String()
	pay := strings.TrimSpace(script[strings.LastIndex(script, "\ngrpcurl "):])
	script += "echo again; ! " + pay + "\necho otherwise; ! " + strings.Replace(pay, "1200", "1201", 1) + "\n"

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	shell.Cancel = func() error { return shell.Process.Signal(os.Interrupt) }
	shell.Dir, shell.WaitDelay = folder, 10*time.Second
	shell.Env = append(os.Environ(), "PATH="+filepath.Dir(tool)+string(os.PathListSeparator)+os.Getenv("PATH"))
	var said bytes.Buffer
	shell.Stdout, shell.Stderr = &said, &said
	if err := shell.Run(); err != nil {
		t.Errorf("%v\n%s", err, &said)
	}
	t.Logf("%s", &said)
	rest := said.String()
	for _, want := range []string{`"receiptId"`, "again", "TOKEN_REPLAYED", "otherwise", "FIELD_MISMATCH"} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("it does not say %s here:\n%s", want, rest)
		}
		rest = after
	}
}
