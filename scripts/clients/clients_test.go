package clients

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/scripts/internal/pair/pairtest"
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
	bin := filepath.Join(t.TempDir(), "bin")
	if err := pairtest.Build(bin, nil); err != nil {
		t.Fatal(err)
	}
	p := pairtest.Start(t, pair.Config{Bin: bin})
	client, err := p.AddProgram(t.Context(), "nightly", "payer")
	if err != nil {
		t.Fatal(err)
	}
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
				"CLIENT_ID="+client.ID, "CLIENT_KEY="+client.KeyFile, "INVOICE="+c.invoice, "CENTS="+c.cents)
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
