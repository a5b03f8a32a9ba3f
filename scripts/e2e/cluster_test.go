package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The story of `make cluster` goes as told, and nothing is left.
func TestCluster(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster, temporary := program(ctx, t, "demo", "cluster")
	if err := os.Chmod(filepath.Dir(temporary), 0o711); err != nil { // of root's, for PostgreSQL, which is not
		t.Fatal(err)
	}
	output, err := cluster.CombinedOutput()
	if err != nil && strings.Contains(string(output), "install Debian's package") && os.Getenv("HANDOFF_CI") == "" {
		t.Skip(strings.TrimSpace(string(output)))
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if told := len(storyLine.FindAll(output, -1)); told != 65 {
		t.Errorf("the story has %d lines:\n%s", told, output)
	}
	wantNothingLeft(t, temporary, output)
}
