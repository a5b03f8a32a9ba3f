package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")
	ourCommand = regexp.MustCompile(`(?m)(?:^|&& )(handoff(?:-server[12])?)((?: [a-z][a-z-]*)*)((?: [^#&\n]*)?)`)
	longFlag   = regexp.MustCompile(`--[a-z][a-z0-9-]*`)
)

// Each command in README's blocks is one that the programs have, with the flags
// that it is given.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, block := range shellBlock.FindAllSubmatch(readme, -1) {
		text := strings.ReplaceAll(string(block[1]), "\\\n", "")
		for _, c := range ourCommand.FindAllStringSubmatch(text, -1) {
			commands++
			help, err := exec.Command(filepath.Join(bin, c[1]), append(strings.Fields(c[2]), "--help")...).CombinedOutput()
			if err != nil || !strings.Contains(string(help), "Usage: "+c[1]+c[2]) {
				t.Errorf("README: %s%s is no command: %v\n%s", c[1], c[2], err, help)
			}
			for _, flag := range longFlag.FindAllString(c[3], -1) {
				if !regexp.MustCompile(flag + `\b`).Match(help) {
					t.Errorf("README: %s%s has no %s", c[1], c[2], flag)
				}
			}
		}
	}
	if commands < 15 {
		t.Errorf("README has %d commands", commands)
	}
}
