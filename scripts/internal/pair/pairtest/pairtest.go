// Package pairtest builds and starts the pair for tests.
package pairtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

// Build builds the programs of the pair, and others of the repository by their names and
// folders, into a folder. The tests that call it are two folders below the top.
func Build(into string, others map[string]string) error {
	folders := map[string]string{"handoff": "shared/cmd/handoff", "handoff-server1": "server1/cmd/handoff-server1", "handoff-server2": "server2"}
	for name, from := range others {
		folders[name] = from
	}
	for name, from := range folders {
		command := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(into, name), "./"+from)
		command.Dir, command.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0") // as make build does
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, output)
		}
	}
	return nil
}

// Start starts the pair in a folder of its own, until the test ends. It waits until all
// say that they are ready: what is issued in SERVER2's first seconds is refused.
func Start(t testing.TB, config pair.Config) *pair.Pair {
	t.Helper()
	config.Dir, config.Trust = filepath.Join(t.TempDir(), "pair"), true
	p, err := pair.Start(t.Context(), config)
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
	return p
}
