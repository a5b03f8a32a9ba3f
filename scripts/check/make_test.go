package check

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A tag can be named like a command: `make contract` runs none.
func TestContractRunsNoTag(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tag, against string
		want         string // begins the last line
		fails        bool
	}{
		"the last release":   {tag: "v1", want: "buf breaking --against"},
		"no release":         {want: "buf breaking --against"},
		"one that is named":  {against: "HEAD~1", want: "buf breaking --against"},
		"none that is named": {against: "v9", want: "make: ***", fails: true},
		"without a contract": {against: "HEAD~2", want: "lint: no earlier contract"},
		"quotes":             {tag: `v1';touch${IFS}ran;'`, want: "buf breaking --against"},
		"double quotes":      {tag: `v1";touch${IFS}ran;"`, want: "buf breaking --against"},
		"a substitution":     {tag: "v1`touch${IFS}ran`$(touch${IFS}ran)", want: "buf breaking --against"},
		"quotes, named":      {against: `v1';touch ran;'`, want: "make: ***", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run := func(program string, args ...string) (string, error) {
				cmd := exec.Command(program, args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=",
					"GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull)
				if c.against != "" {
					cmd.Env = append(cmd.Env, "AGAINST="+c.against)
				}
				out, err := cmd.CombinedOutput()
				return strings.TrimSpace(string(out)), err
			}
			git := func(args ...string) {
				t.Helper()
				if out, err := run("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@t.example"}, args...)...); err != nil {
					t.Fatalf("git %v: %v\n%s", args, err, out)
				}
			}
			write := func(file string, content []byte) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			git("init", "-q")
			git("commit", "-q", "--allow-empty", "-m", "nothing")
			if err := os.Mkdir(filepath.Join(dir, "proto"), 0o700); err != nil {
				t.Fatal(err)
			}
			write("proto/a.proto", nil)
			write("buf.yaml", nil)
			write("Makefile", makefile)
			git("add", ".")
			git("commit", "-q", "-m", "a contract")
			if c.tag != "" {
				git("tag", c.tag)
			}
			git("commit", "-q", "--allow-empty", "-m", "more")

			out, err := run("make", "-s", "contract", "TOOL=echo")
			last := out[strings.LastIndex(out, "\n")+1:]
			if (err != nil) != c.fails || !strings.HasPrefix(last, c.want) {
				t.Errorf("%v:\n%s", err, out)
			}
			if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
				t.Error("the name of the tag ran")
			}
		})
	}
}
