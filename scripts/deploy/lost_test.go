package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each command in OPERATING.md's section on backups and losses does what the section says,
// in its order, on a database and keys that a server has made.
func TestBackupAndLosses(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	into, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	shell := func(script, input string) string {
		t.Helper()
		command := exec.Command("sh", "-euc", script)
		command.Dir, command.Env = s.folder, []string{"PATH=" + into + ":" + os.Getenv("PATH")}
		command.Stdin = strings.NewReader(input)
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s\n%v: %s", script, err, out)
		}
		return string(out)
	}
	t.Run("before", func(t *testing.T) { // it ends with the server
		at := func(name string) string { return filepath.Join(s.folder, name) }
		start(t, nil, built(t, "server1"), "serve", "--listen=127.0.0.1:0", "--tls-cert="+at("tls.crt"), "--tls-key="+at("tls.key"),
			"--issuer=https://shop.example", "--policy="+at("policy.json"), "--trust-key="+at("trust.key"),
			"--database="+at("server1.db"), "--key-dir="+at("keys"))
		shell("handoff-server1 user add --database server1.db --name alice --role payer", "a long enough password\n")
	})
	_, section, _ := strings.Cut(read(t, "..", "..", "server1", "OPERATING.md"), "\n## Backup, and what is lost\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(blocks) != 5 {
		t.Fatalf("the section has %d blocks of commands, want 5", len(blocks))
	}
	const signing = `handoff-server1 keys list --database restored.db`
	for i, block := range blocks {
		if strings.Contains(block[1], "--lost") {
			shell("rm restored-keys/*", "") // so that it is lost
		}
		shell(block[1], "")
		t.Logf("block %d is done", i)
	}
	if events := shell("handoff-server1 audit export --database restored.db", ""); !strings.Contains(events, `"user_disabled"`) || !strings.Contains(events, `"user_enabled"`) {
		t.Errorf("the sessions have not been ended:\n%s", events)
	}
	keys := shell(signing, "")
	if !strings.Contains(keys, "tainted") || strings.Count(keys, "signs") != 1 {
		t.Errorf("the lost key is not replaced:\n%s", keys)
	}
	if kid := shell("cat ceremony-trust.jwks next-trust.jwks", ""); strings.Count(kid, `"kid"`) != 2 {
		t.Errorf("the public keys are\n%s", kid)
	}
	one := start(t, nil, built(t, "server1"), "serve", "--listen=127.0.0.1:0", "--tls-cert="+filepath.Join(s.folder, "tls.crt"), "--tls-key="+filepath.Join(s.folder, "tls.key"),
		"--issuer=https://shop.example", "--policy="+filepath.Join(s.folder, "policy.json"), "--trust-key="+filepath.Join(s.folder, "next-trust.key"),
		"--database="+filepath.Join(s.folder, "restored.db"), "--key-dir="+filepath.Join(s.folder, "restored-keys"))
	until(t, "the restored server is ready", nil, built(t, "server1"), "probe", "--listen="+one.address, "--tls-cert="+filepath.Join(s.folder, "tls.crt"))
}
