package serving

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// held is a log whose reader does not read until it is closed.
type held struct {
	servingtest.Log
	until chan struct{}
}

func (h *held) Write(p []byte) (int, error) {
	<-h.until
	return h.Log.Write(p)
}

// lostOf returns what the metric says.
func lostOf(t *testing.T, l *LogWriter) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(l.Lost)
	found, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return found[0].GetMetric()[0].GetCounter().GetValue()
}

// I11: a reader of the log who stays and does not read makes nobody wait, and hears how
// many lines are lost once they read again.
func TestI11LogReaderWhoDoesNotRead(t *testing.T) {
	t.Parallel()
	to := &held{until: make(chan struct{})}
	l := NewLogWriter(to)
	l.patience = time.Millisecond
	line := func(i int) string { return fmt.Sprintf("%08d%s\n", i, strings.Repeat("x", 1<<10)) }
	lines := 0
	for ; lostOf(t, l) < 7 && lines < 4*maxPending>>10; lines++ {
		_, _ = fmt.Fprint(l, line(lines))
	}
	if lost := lostOf(t, l); lost != 7 {
		t.Fatalf("of %d lines %v are lost", lines, lost)
	}
	close(to.until)
	servingtest.Eventually(t, "the log tells of the lost lines", func() bool { return strings.HasSuffix(to.String(), `"lost":7}`+"\n") })
	l.patience = time.Minute
	_, _ = fmt.Fprintln(l, "after")
	l.Close()
	kept, told, _ := strings.Cut(to.String(), "{")
	var want strings.Builder
	for i := range lines - 7 {
		want.WriteString(line(i))
	}
	if kept != want.String() {
		t.Error("the lines before the gap are not those that were written first, in order")
	}
	if told, after, _ := strings.Cut(told, "\n"); !strings.Contains(told, `"level":"WARN"`) || after != "after\n" {
		t.Errorf("then the log says %s, and %q", told, after)
	}
}

// faulty is a log that takes no line while it is full.
type faulty struct {
	servingtest.Log
	full bool
}

func (f *faulty) Write(p []byte) (int, error) {
	if f.full {
		return 0, errors.New("full")
	}
	return f.Log.Write(p)
}

// A line is written when Write returns; one that cannot be is told of; and none comes
// after Close.
func TestLogWriter(t *testing.T) {
	t.Parallel()
	to := &faulty{}
	l := NewLogWriter(to)
	l.patience = time.Minute
	say := func(full bool, line, want string) {
		t.Helper()
		to.full = full
		if n, err := fmt.Fprintln(l, line); n != len(line)+1 || err != nil {
			t.Errorf("%s: %d, %v", line, n, err)
		}
		if got := to.String(); !strings.HasSuffix(got, want) {
			t.Errorf("%s: the log is %q", line, got)
		}
	}
	say(false, "a", "a\n")
	say(true, "b", "a\n")
	say(true, "c", "a\n")
	say(false, "d", `"lost":2}`+"\nd\n")
	say(true, "e", "d\n")
	to.full = false
	l.Close()
	l.Close()
	say(false, "f", "d\n")
	if lost := lostOf(t, l); lost != 3 {
		t.Errorf("%v are lost", lost)
	}
}

// I11: nor does a failed start wait for that reader for ever.
func TestI11ExitIsNotHeld(t *testing.T) {
	t.Parallel()
	to := &held{until: make(chan struct{})}
	defer close(to.until)
	if status := Exit(to, "program", errors.New("no")); status != exitFailure {
		t.Error("exit status", status)
	}
}
