package servingtest

import (
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Scrape reads the metrics of a server with --metrics 127.0.0.1:0 from the address that its
// log names.
func Scrape(t testing.TB, log *Log) string {
	t.Helper()
	_, rest, _ := strings.Cut(log.String(), `"msg":"metrics","address":"`)
	address, _, _ := strings.Cut(rest, `"`)
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	return string(text)
}

// Documented holds the table in the section "Metrics" of a page to what a server shows:
// the same names, types and labels. What every Go program shows is in no table.
func Documented(t testing.TB, page, scraped string) {
	t.Helper()
	want, got := documentedSeries(t, page), shownSeries(scraped)
	if len(want) == 0 {
		t.Fatalf("%s has no table of metrics", page)
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if want[name] != got[name] {
			t.Errorf("%s shows %q, and %s says %q", name, got[name], page, want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] == "" {
			t.Errorf("%s says %s, which is not there after a start", page, name)
		}
	}
}

var metricRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\| [^|]+ \\|$")

// documentedSeries returns "type label,label" by name.
func documentedSeries(t testing.TB, page string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	found := map[string]string{}
	for _, row := range metricRow.FindAllStringSubmatch(section, -1) {
		labels := strings.Split(strings.NewReplacer("`", "", " ", "").Replace(row[3]), ",")
		slices.Sort(labels)
		found[row[1]] = row[2] + " " + strings.Join(labels, ",")
	}
	return found
}

var (
	sample = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? \S+$`)
	label  = regexp.MustCompile(`([a-z_]+)="`)
	kind   = regexp.MustCompile(`(?m)^# TYPE ([a-z_]+) ([a-z]+)$`)
)

func shownSeries(scraped string) map[string]string {
	kinds, found := map[string]string{}, map[string]string{}
	for _, line := range kind.FindAllStringSubmatch(scraped, -1) {
		kinds[line[1]] = line[2]
	}
	for _, line := range sample.FindAllStringSubmatch(scraped, -1) {
		name := line[1]
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(name, part); kinds[base] == "histogram" {
				name = base
			}
		}
		var labels []string
		for _, found := range label.FindAllStringSubmatch(line[2], -1) {
			if found[1] != "le" {
				labels = append(labels, found[1])
			}
		}
		slices.Sort(labels)
		found[name] = kinds[name] + " " + strings.Join(labels, ",")
	}
	return found
}
