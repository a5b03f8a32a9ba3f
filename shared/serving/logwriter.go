package serving

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// logPatience is how long a line may take to be written before nobody waits for
	// lines any more, and how long the last lines may take at the end.
	logPatience = time.Second
	// maxPending is how many bytes of lines are kept for a reader who does not read.
	maxPending = 1 << 20
)

// A LogWriter stands between a server and the one who reads its log, who may stay and
// not read: then a write to standard error blocks, and with it, sooner or later, every
// call. Write returns once the line is written; but after one has taken a second, lines
// are kept, up to a megabyte, and nobody waits until all of them are written. Those that
// come when there is no room are lost, as are those that cannot be written, and the next
// line says how many. It is safe for concurrent use.
type LogWriter struct {
	// Lost counts the lines that were lost.
	Lost prometheus.Counter

	to       io.Writer
	patience time.Duration
	ended    chan struct{} // closed once the last line is written

	mu      sync.Mutex
	more    *sync.Cond    // there is something to do for run
	pending []byte        // lines to be written, in order
	written chan struct{} // closed once they are
	stuck   bool          // a line has taken too long: nobody waits until all are written
	full    bool          // lines are lost until what is pending is written, so that the gap is one
	lost    int           // lines that the log has not told of yet
	closed  bool
}

// NewLogWriter returns a writer whose lines go to w, by one goroutine. Close ends it.
func NewLogWriter(w io.Writer) *LogWriter {
	l := &LogWriter{
		Lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "handoff_log_lines_lost_total", Help: "Lines of the log that could not be written, or were not read.",
		}),
		to: w, patience: logPatience, ended: make(chan struct{}), written: make(chan struct{}),
	}
	l.more = sync.NewCond(&l.mu)
	go l.run()
	return l
}

// Write takes one line. It never fails: there is nobody to tell.
func (l *LogWriter) Write(line []byte) (int, error) {
	if written := l.add(line); written != nil {
		select {
		case <-written:
		case <-time.After(l.patience):
			l.mu.Lock()
			l.stuck = true
			l.mu.Unlock()
		}
	}
	return len(line), nil
}

// add returns what is closed once the line is written, or nil where it is not waited for.
func (l *LogWriter) add(line []byte) (written <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if l.full = l.full || len(l.pending) > 0 && len(l.pending)+len(line) > maxPending; l.full {
		l.lose(1)
		return nil
	}
	l.pending = append(l.pending, line...)
	l.more.Signal()
	if l.stuck {
		return nil
	}
	return l.written
}

// Close waits until all lines are written, for a second at most. Later ones are dropped.
func (l *LogWriter) Close() {
	l.mu.Lock()
	l.closed = true
	l.more.Signal()
	l.mu.Unlock()
	select {
	case <-l.ended:
	case <-time.After(l.patience):
	}
}

// run writes the lines, as many at a time as there are.
func (l *LogWriter) run() {
	defer close(l.ended)
	for {
		lines, written, lost := l.next()
		if len(lines) == 0 && lost == 0 {
			return
		}
		if lost > 0 && l.tell(lost) != nil {
			l.mu.Lock()
			l.lost += lost // to be told with the next line
			l.mu.Unlock()
		}
		if n, err := l.to.Write(lines); err != nil {
			l.mu.Lock()
			l.lose(bytes.Count(lines[n:], []byte("\n")))
			l.mu.Unlock()
		}
		close(written)
	}
}

// next waits for lines, and returns them, and how many were lost before them. It returns
// neither once the writer is closed and all is written.
func (l *LogWriter) next() (lines []byte, written chan struct{}, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) == 0 && !l.full && !l.closed {
		l.stuck = false
		l.more.Wait()
	}
	lines, written = l.pending, l.written
	l.pending, l.written = nil, make(chan struct{})
	if len(lines) > 0 && l.full { // the gap comes after them
		return lines, written, 0
	}
	if len(lines) > 0 || l.full {
		lost, l.lost, l.full = l.lost, 0, false
	}
	return lines, written, lost
}

// tell writes the line that says how many were lost.
func (l *LogWriter) tell(lost int) error {
	line := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of this log were lost: they could not be written, or were not read", 0)
	line.AddAttrs(slog.Int("lost", lost))
	return slog.NewJSONHandler(l.to, nil).Handle(context.Background(), line)
}

// lose counts lines that are lost. l.mu is held.
func (l *LogWriter) lose(lines int) {
	l.lost += lines
	l.Lost.Add(float64(lines))
}
