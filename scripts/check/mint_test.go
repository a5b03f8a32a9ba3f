package check

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/measure"
)

// What a binary shows in `go tool nm` when it can make tokens, and when it can let them in.
var (
	minting = []string{
		module + "/shared/handoff.(*Issuer)",
		module + "/shared/handoff.NewIssuer",
		module + "/shared/signkey.",
		jose + ".NewSigner",
		jose + "/cryptosigner.",
	}
	guarding = []string{
		module + "/shared/handoffgrpc.(*Guard)",
		module + "/shared/handoffgrpc.NewGuard",
		module + "/shared/replay.",
	}
)

// A stolen SERVER2 forges nothing: its binary has no code that signs a token. SERVER1's has, which shows that these are
// the names to look for; and the other way round for the guard.
func TestServer2CannotMint(t *testing.T) {
	measure.InCI(t) // TestRoomsNeverLink knows as much, from the source
	for _, c := range []struct {
		server    string
		has, lack []string
	}{
		{server: "server1/cmd/handoff-server1", has: minting[:2], lack: guarding},
		{server: "server2", has: guarding[:2], lack: minting},
	} {
		t.Run(c.server, func(t *testing.T) {
			if _, ok := list(t)[module+"/"+c.server]; !ok {
				t.Skip("does not exist yet")
			}
			symbols := symbolsOf(t, c.server)
			for _, name := range c.has {
				if !strings.Contains(symbols, " "+name) {
					t.Errorf("the binary of %s shows no %s: is this still its name?", c.server, name)
				}
			}
			for _, name := range c.lack {
				if _, after, ok := strings.Cut(symbols, " "+name); ok {
					rest, _, _ := strings.Cut(after, "\n")
					t.Errorf("the binary of %s has %s%s", c.server, name, rest)
				}
			}
		})
	}
}

// symbolsOf builds a program, as `make build` does, and lists the symbols of its binary.
func symbolsOf(t *testing.T, dir string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), filepath.Base(dir))
	if _, err := run("go", "build", "-trimpath", "-o", binary, "./"+dir); err != nil {
		t.Fatal(err)
	}
	out, err := run("go", "tool", "nm", binary)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
