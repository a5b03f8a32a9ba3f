package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// A command whose output is lost does not end well, and all say so in the same words.
func TestOutputThatIsLost(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, args := range [][]string{
		{"--help"},
		{"init", "--help"},
		{"--version"},
		{"init", "--replay", filepath.Join(t.TempDir(), "journal")},
	} {
		var complaint servingtest.Log
		if status := run(t.Context(), args, full, &complaint); status != 1 ||
			!strings.HasPrefix(complaint.String(), program+": standard output: write ") || !strings.HasSuffix(complaint.String(), ": no space left on device\n") {
			t.Errorf("%q: status %d, %s", args, status, &complaint)
		}
	}
}
