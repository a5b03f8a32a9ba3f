package server1

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// section returns one of OPERATING.md's.
func section(t *testing.T, title string) string {
	t.Helper()
	text, err := os.ReadFile("OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, found, ok := strings.Cut(string(text), "\n## "+title+"\n")
	if !ok {
		t.Fatalf("OPERATING.md has no section %q", title)
	}
	found, _, _ = strings.Cut(found, "\n## ")
	return found
}

var quoted = regexp.MustCompile("`([a-z_]+)`")

func names(text string) (all []string) {
	for _, found := range quoted.FindAllStringSubmatch(text, -1) {
		all = append(all, found[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The names in an exported row, and all events, are those that OPERATING.md lists.
func TestAuditIsDocumented(t *testing.T) {
	t.Parallel()
	page := section(t, "The audit")
	_, table, _ := strings.Cut(page, "| Name |")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(table, -1) {
		documented = append(documented, row[1])
	}
	var have []string
	for field := range reflect.TypeFor[database.AuditRow]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		have = append(have, name)
	}
	if !slices.Equal(documented, have) {
		t.Errorf("OPERATING.md lists %q, and a row has %q", documented, have)
	}
	source, err := os.ReadFile(filepath.Join("internal", "database", "audit.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, events, _ := strings.Cut(page, "Events: ")
	events, _, _ = strings.Cut(events, "\n\n")
	var want []string
	for _, found := range regexp.MustCompile(`(?m)^\tevent\w+ += "([a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		want = append(want, found[1])
	}
	slices.Sort(want)
	if got := names(events); len(want) < 20 || !slices.Equal(got, want) {
		t.Errorf("OPERATING.md lists %q, and there are %q", got, want)
	}
}

// What a running server has done is in the export, one object a line.
func TestAuditExport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.start(t, nil)
	s.addUser(t, "alice", "payer")
	session, _ := r.signIn(t, "alice")
	answer, err := handoffv1.NewHandoffServiceClient(r.conn).IssueHandoff(session, pay(t))
	if err != nil {
		t.Fatal(err)
	}
	export := func(args ...string) (code int, text string) {
		var out, errOut bytes.Buffer
		code = run(t.Context(), append([]string{"audit", "export", "--database=" + s.database}, args...), nil, strings.NewReader(""), &out, &errOut)
		return code, out.String() + errOut.String()
	}
	code, text := export("--since=1h")
	if code != 0 {
		t.Fatalf("status %d: %s", code, text)
	}
	var events []string
	for line := range strings.Lines(text) {
		var row database.AuditRow
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		events = append(events, row.Event)
		if row.Event == "handoff_issued" && (row.Method != server2v1.InvoiceService_PayInvoice_FullMethodName || row.Handoff == "") {
			t.Errorf("%s", line)
		}
	}
	if want := []string{"user_added", "signed_in", "handoff_issued"}; !slices.Equal(events, want) {
		t.Errorf("exported %q, want %q", events, want)
	}
	if strings.Contains(text, answer.GetToken()) {
		t.Error("the token is in the export")
	}
	if code, text := export("--since=" + time.Now().Add(time.Hour).UTC().Format(time.RFC3339)); code != 0 || text != "" {
		t.Errorf("in the future: status %d: %s", code, text)
	}
	if code, text := export("--since=yesterday"); code != 2 || !strings.Contains(text, "--since") {
		t.Errorf("yesterday: status %d: %s", code, text)
	}
}

// A backup that was made while the server runs is one that a server starts from.
func TestBackup(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t, nil)
	s.addUser(t, "alice", "payer")
	file := s.path("copy.db")
	args := []string{"backup", "--database=" + s.database, "--out=" + file}
	for i, want := range []int{0, 2} { // nothing is overwritten
		var out bytes.Buffer
		if code := run(t.Context(), args, nil, strings.NewReader(""), io.Discard, &out); code != want {
			t.Fatalf("backup %d: status %d: %s", i, code, &out)
		}
	}
	if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	s.database = file
	r := s.start(t, nil)
	session, _ := r.signIn(t, "alice")
	if _, err := handoffv1.NewHandoffServiceClient(r.conn).IssueHandoff(session, pay(t)); err != nil {
		t.Error(err)
	}
}

// A backup is in the file that is named, which only its owner can read, though SQLite has
// another meaning for such a name.
func TestBackupNames(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	t.Chdir(t.TempDir())
	for _, name := range []string{"file:b.db", "file:b.db?mode=memory", ":memory:", "b.db?mode=memory"} {
		var out bytes.Buffer
		code := run(t.Context(), []string{"backup", "--database=" + s.database, "--out=" + name}, nil, strings.NewReader(""), io.Discard, &out)
		info, err := os.Stat(name)
		if code != 0 || err != nil || info.Size() == 0 || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: status %d: %s%v, %v", name, code, &out, info, err)
			continue
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir("."); err != nil || len(left) != 0 {
			t.Errorf("%s: besides there is %v, %v", name, left, err)
		}
	}
}
