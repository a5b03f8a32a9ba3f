package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The units are well formed, and leave the servers little to do harm with: an exposure of
// 2.0 at most, where systemd's own scale ends at 10.
func TestUnits(t *testing.T) {
	t.Parallel()
	analyze := program(t, "systemd-analyze", "systemd")
	for _, name := range []string{"handoff-server1.service", "handoff-server2.service"} {
		if out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20", filepath.Join("systemd", name)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		// What it starts need not be installed here.
		unit := strings.ReplaceAll(read(t, "systemd", name), "=/usr/bin/"+strings.TrimSuffix(name, ".service"), "=/bin/true")
		installed := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(installed, []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(analyze, "verify", "--man=false", installed).CombinedOutput(); err != nil || strings.Contains(string(out), name) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// environment is what systemd would give a unit's commands, with the folders of the test
// in the place of the machine's, and ports that are free.
func environment(t *testing.T, server, folder, state string, more ...string) (env []string) {
	t.Helper()
	unit := read(t, "systemd", "handoff-"+server+".service")
	for _, line := range regexp.MustCompile(`(?m)^Environment=(.*)$`).FindAllStringSubmatch(unit, -1) {
		env = append(env, strings.Fields(line[1])...)
	}
	for line := range strings.Lines(read(t, "systemd", server+".env")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			env = append(env, line)
		}
	}
	if len(env) < 9 {
		t.Fatalf("the unit of %s sets only %q", server, env)
	}
	for i := range env {
		env[i] = strings.NewReplacer("%d", folder, "%S", state, "/etc/handoff/"+server, folder).Replace(env[i])
	}
	prefix := "HANDOFF_" + strings.ToUpper(server) + "_"
	return append(append(env, prefix+"LISTEN=127.0.0.1:0", prefix+"METRICS=127.0.0.1:0"), more...)
}

// What the units set starts both servers, twice: SERVER2's journal is made before the first
// start, and left alone before the second.
func TestUnitsServe(t *testing.T) {
	t.Parallel()
	s, state := newScene(t), t.TempDir()
	for _, name := range []string{"handoff-server1", "handoff-server2"} {
		if err := os.Mkdir(filepath.Join(state, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	env := environment(t, "server1", s.folder, state)
	one := start(t, env, built(t, "server1"), "serve")
	env = environment(t, "server2", s.folder, state, "HANDOFF_SERVER2_TRUST=grpc://"+one.address)
	if unit := read(t, "systemd", "handoff-server2.service"); !strings.Contains(unit, "\nExecStartPre=/usr/bin/handoff-server2 init --if-missing\n") {
		t.Error("the unit does not make the journal")
	}
	for range 2 {
		t.Run("start", func(t *testing.T) {
			until(t, "init", env, built(t, "server2"), "init", "--if-missing")
			two := start(t, env, built(t, "server2"), "serve")
			until(t, "SERVER2 is ready", env, built(t, "server2"), "probe", "--listen="+two.address)
		})
	}
}
