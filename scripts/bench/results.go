package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
)

const resultsFile = "RESULTS.md"

// write keeps the table, with what it takes to judge it.
func write(ctx context.Context, t *measure.Table, args []string, now time.Time) error {
	measured := commit(ctx) // before there is a change: the results
	f, err := os.Create(resultsFile)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	fmt.Fprintf(w, "# Results\n\nThe last run that was kept. How it measures: `go doc ./scripts/bench`. Times are processor time of one\n"+
		"operation, unless a line says otherwise. A ratio is to the line of its group that has 1.00. Compare ratios: microseconds are the\n"+
		"machine's.\n\n")
	for _, fact := range [][2]string{
		{"date", now.UTC().Format(time.DateOnly)},
		{"command", strings.Join(append([]string{"go run -C scripts/bench ."}, args...), " ")},
		{"commit", measured},
		{"machine", machine()},
		{"versions", versions()},
	} {
		fmt.Fprintf(w, "* %s: %s\n", fact[0], fact[1])
	}
	fmt.Fprintln(w)
	if err := t.Print(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// commit names what was measured, if it is a checkout.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func machine() string {
	model := "processor unknown"
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for l := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s/%s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
}

// versions lists Go's, and those of what is compared and what it runs on.
func versions() string {
	compared := []string{
		"github.com/go-jose/go-jose/v4", "github.com/golang-jwt/jwt/v5", "github.com/lestrrat-go/jwx/v3",
		"google.golang.org/grpc", "google.golang.org/protobuf",
	}
	all := []string{runtime.Version()}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, d := range build.Deps {
			if slices.Contains(compared, d.Path) {
				all = append(all, d.Path+" "+d.Version)
			}
		}
	}
	return strings.Join(all, ", ")
}
