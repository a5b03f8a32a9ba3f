package clients

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

// blocks are what README.md has to be pasted.
func blocks(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		if _, block, ok := strings.Cut(body, "```sh\n"); ok {
			found[name], _, _ = strings.Cut(block, "```")
		}
	}
	return found
}

// K01, K02: each client is generated, built and run by the lines of the page, from the
// repository as it is.
func TestK01K02Clients(t *testing.T) {
	if os.Getenv("HANDOFF_CLIENTS") == "" {
		t.Skip("make clients runs them")
	}
	p, bin := start(t)
	id, key := addClient(t, p, bin)
	lines := blocks(t)
	for _, c := range []struct{ language, invoice, cents, last string }{
		{"TypeScript", "INV-42", "1200", "verdicts are those of the frozen vectors"},
		{"Python", "INV-44", "500", "another assertion: a handoff"},
	} {
		t.Run(c.language, func(t *testing.T) {
			if lines[c.language] == "" {
				t.Fatal("README.md has no lines for it")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", lines[c.language])
			shell.Dir = filepath.Join("..", "..")
			shell.Env = append(os.Environ(), "SHOP="+p.Server1.Address, "BILLING="+p.Server2.Address, "CA="+p.CA, "PASSWORD="+pair.Password,
				"CLIENT_ID="+id, "CLIENT_KEY="+key, "INVOICE="+c.invoice, "CENTS="+c.cents)
			var said bytes.Buffer
			shell.Stdout, shell.Stderr = &said, &said
			err := shell.Run()
			t.Logf("%s", &said)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{
				"another amount: FIELD_MISMATCH", "paid: " + c.invoice, "no token: TOKEN_MISSING", "INVOICE_NOT_FOUND", "the assertion again: CLIENT_INVALID", c.last,
			} {
				if !strings.Contains(said.String(), want) {
					t.Errorf("it does not say %q", want)
				}
			}
		})
	}
}

func start(t *testing.T) (p *pair.Pair, bin string) {
	t.Helper()
	bin = filepath.Join(t.TempDir(), "bin")
	for name, from := range map[string]string{"handoff": "shared/cmd/handoff", "handoff-server1": "server1/cmd/handoff-server1", "handoff-server2": "server2"} {
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(bin, name), "./"+from)
		build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0") // as make build does
		if output, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, output)
		}
	}
	p, err := pair.Start(t.Context(), pair.Config{Bin: bin, Dir: filepath.Join(t.TempDir(), "pair"), Trust: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, bin
}

// addClient makes an API client's key and registers its public half, as a client and
// SERVER1's operator do.
func addClient(t *testing.T, p *pair.Pair, bin string) (id, key string) {
	t.Helper()
	run := func(program string, args ...string) string {
		output, err := exec.Command(filepath.Join(bin, program), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", program, args, err, output)
		}
		return string(output)
	}
	dir := t.TempDir()
	key = filepath.Join(dir, "nightly.key")
	run("handoff", "keygen", "--out", key)
	run("handoff", "public", "--key", key, "--out", filepath.Join(dir, "nightly.jwks"))
	said := run("handoff-server1", "client", "add", "--database", filepath.Join(filepath.Dir(filepath.Dir(p.CA)), "server1", "server1.db"),
		"--name", "nightly", "--key", filepath.Join(dir, "nightly.jwks"), "--role", "payer")
	found := regexp.MustCompile(`\bid ([^ ,]+)`).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("client add says %q", said)
	}
	return found[1], key
}
