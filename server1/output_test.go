package server1

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// A command whose output is lost does not end well: the id of a new user is in it.
func TestOutputThatIsLost(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	s := newSite(t)
	for _, args := range [][]string{
		{"user", "add", "--database", s.database, "--name", "alice"},
		{"user", "list", "--database", s.database},
		{"user", "disable", "--database", s.database, "alice"},
		{"--help"},
		{"serve", "--help"},
		{"user", "--help"},
		{"--version"},
	} {
		var complaint bytes.Buffer
		if status := run(t.Context(), args, nil, strings.NewReader(password), full, &complaint); status != 1 ||
			!strings.HasPrefix(complaint.String(), program+": standard output: write ") || !strings.HasSuffix(complaint.String(), ": no space left on device\n") {
			t.Errorf("%q: status %d, %s", args, status, &complaint)
		}
	}
}
