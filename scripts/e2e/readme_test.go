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

// Each command on the pages for users and operators is one that the programs have,
// with the flags that it is given.
func TestPagesCommands(t *testing.T) {
	t.Parallel()
	commands := 0
	for _, page := range []string{"README.md", "server1/OPERATING.md", "server2/OPERATING.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", page))
		if err != nil {
			t.Fatal(err)
		}
		commands += checkCommands(t, page, text)
	}
	if commands < 15 {
		t.Errorf("the pages have %d commands", commands)
	}
}

// checkCommands checks the commands in a page's blocks, and counts them.
func checkCommands(t *testing.T, page string, content []byte) (commands int) {
	t.Helper()
	for _, block := range shellBlock.FindAllSubmatch(content, -1) {
		text := strings.ReplaceAll(string(block[1]), "\\\n", "")
		for _, c := range ourCommand.FindAllStringSubmatch(text, -1) {
			commands++
			help, err := exec.Command(filepath.Join(bin, c[1]), append(strings.Fields(c[2]), "--help")...).CombinedOutput()
			if err != nil || !strings.Contains(string(help), "Usage: "+c[1]+c[2]) {
				t.Errorf("%s: %s%s is no command: %v\n%s", page, c[1], c[2], err, help)
			}
			for _, flag := range longFlag.FindAllString(c[3], -1) {
				if !regexp.MustCompile(flag + `\b`).Match(help) {
					t.Errorf("%s: %s%s has no %s", page, c[1], c[2], flag)
				}
			}
		}
	}
	return commands
}
