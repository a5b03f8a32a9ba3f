package deploy

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// program returns the path of a program from a package of Debian's.
func program(t *testing.T, name, from string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("HANDOFF_CI") != "" {
		t.Fatalf("no %s: install %s", name, from)
	}
	if err != nil {
		t.Skipf("no %s (package %s)", name, from)
	}
	return path
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documented returns the names in both tables of metrics, which are held to what the
// servers show by their own tests, and those of every process that the alerts look at.
func documented(t *testing.T) (names []string) {
	t.Helper()
	for _, server := range []string{"server1", "server2"} {
		_, section, _ := strings.Cut(read(t, "..", "..", server, "OPERATING.md"), "\n## Metrics\n")
		section, _, _ = strings.Cut(section, "\n## ")
		for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) ").FindAllStringSubmatch(section, -1) {
			names = append(names, row[1])
			if row[2] == "histogram" {
				names = append(names, row[1]+"_bucket", row[1]+"_sum", row[1]+"_count")
			}
		}
	}
	if len(names) < 30 {
		t.Fatalf("the tables have only %v", names)
	}
	return append(names, "up", "process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_cpu_seconds_total")
}

var (
	quotedText = regexp.MustCompile(`"[^"]*"`)
	grouping   = regexp.MustCompile(`\b(by|without|on) \([^)]*\)`)
	variable   = regexp.MustCompile(`\$\w+`)
	matchers   = regexp.MustCompile(`\w+ ?(=~|!~|!=|=)`)
	word       = regexp.MustCompile(`\b[a-z][a-z0-9_]*\b(\s*\()?`)
)

// seriesOf returns the names of series in a query.
func seriesOf(query string) (names []string) {
	for _, drop := range []*regexp.Regexp{quotedText, grouping, variable, matchers, regexp.MustCompile(`\[[^\]]*\]`)} {
		query = drop.ReplaceAllString(query, " ")
	}
	for _, found := range word.FindAllString(query, -1) {
		if found != "by" && !strings.HasSuffix(found, "(") {
			names = append(names, found)
		}
	}
	return names
}

func TestSeriesOf(t *testing.T) {
	got := seriesOf(`sum by (le, x) (rate(a_bucket{job=~"b_c", d="e"}[5m])) / on (i) c_total > 7 * 86400`)
	if !slices.Equal(got, []string{"a_bucket", "c_total"}) {
		t.Errorf("got %q", got)
	}
}

// The dashboard and the alerts ask only for series that exist, and the dashboard shows all
// that are ours.
func TestQueriesNameWhatExists(t *testing.T) {
	known := documented(t)
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "prometheus", "dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	queries := map[string][]string{}
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			queries[panel.Title] = append(queries[panel.Title], target.Expr)
		}
	}
	shown := strings.Join(slices.Concat(slices.Collect(maps.Values(queries))...), "\n")
	for _, name := range known {
		if strings.HasPrefix(name, "handoff_") && !strings.Contains(shown, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
	for _, line := range regexp.MustCompile(`(?m)^ +expr: (.*)$`).FindAllStringSubmatch(read(t, "prometheus", "handoff.rules.yml"), -1) {
		queries["alerts"] = append(queries["alerts"], line[1])
	}
	if len(queries) < 20 || len(queries["alerts"]) < 15 {
		t.Fatalf("found %d panels, %d alerts", len(queries)-1, len(queries["alerts"]))
	}
	for where, all := range queries {
		for _, query := range all {
			for _, name := range seriesOf(query) {
				if !slices.Contains(known, name) {
					t.Errorf("%s asks for %s, which no server shows: %s", where, name, query)
				}
			}
		}
	}
}

// Each alert has been seen to fire, and not to.
func TestAlerts(t *testing.T) {
	promtool := program(t, "promtool", "prometheus")
	rules, tests := read(t, "prometheus", "handoff.rules.yml"), read(t, "prometheus", "handoff.tests.yml")
	for _, alert := range regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(rules, -1) {
		fires := regexp.MustCompile(`alertname: ` + alert[1] + `\n +exp_alerts:\n`).MatchString(tests)
		quiet := regexp.MustCompile(`alertname: ` + alert[1] + `\n +exp_alerts: \[\]`).MatchString(tests)
		if !fires || !quiet {
			t.Errorf("%s is not tested to fire and not to fire", alert[1])
		}
	}
	for _, args := range [][]string{
		{"check", "rules", "handoff.rules.yml"},
		{"test", "rules", "handoff.tests.yml"},
		{"check", "config", "--syntax-only", "prometheus.yml"},
	} {
		command := exec.Command(promtool, args...)
		command.Dir = "prometheus"
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
