package serving

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Of equal lines about calls, so many are written in each period. A stranger can have a
// call refused for less than a line costs, and can make others, such as reading the
// trust list, as often as they like; the metrics count them all.
const (
	sampleLines  = 10
	samplePeriod = 10 * time.Second
	sampleKinds  = 1024 // of lines that are told apart; the rest count as one
)

// Sampled returns a handler that writes few of the equal lines that say how a call
// ended, or that one was refused, and all others: a decision that lets a call through
// has its line. Lines are equal that have the same message, method, reason, check,
// outcome and code, for all users together. The first line that is written after some
// were not says how many, as "unwritten".
func Sampled(next slog.Handler) slog.Handler {
	return &sampled{next: next, counts: &lineCounts{now: time.Now, by: map[string]*lineCount{}}}
}

type sampled struct {
	next   slog.Handler
	counts *lineCounts // shared with the handlers that are derived from this one
}

// Enabled is slog's.
func (s *sampled) Enabled(ctx context.Context, level slog.Level) bool {
	return s.next.Enabled(ctx, level)
}

// WithAttrs is slog's.
func (s *sampled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &sampled{s.next.WithAttrs(attrs), s.counts}
}

// WithGroup is slog's.
func (s *sampled) WithGroup(name string) slog.Handler {
	return &sampled{s.next.WithGroup(name), s.counts}
}

// Handle is slog's.
func (s *sampled) Handle(ctx context.Context, line slog.Record) error {
	if key, bounded := kindOf(line); bounded {
		unwritten, ok := s.counts.count(key)
		if !ok {
			return nil
		}
		if unwritten > 0 {
			line = line.Clone()
			line.AddAttrs(slog.Int("unwritten", unwritten))
		}
	}
	return s.next.Handle(ctx, line)
}

// kindOf returns what makes lines equal, and whether few of them are written: the line
// says how a call ended, or that one was refused.
func kindOf(line slog.Record) (key string, bounded bool) {
	parts := []string{line.Message}
	line.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "grpc.code":
			bounded = true
		case "outcome":
			outcome := a.Value.String()
			bounded = bounded || outcome == "refused" || outcome == "answered" // by what the same token got before
		case "method", "grpc.service", "grpc.method", "reason", "check":
		default:
			return true
		}
		parts = append(parts, a.Value.String())
		return true
	})
	return strings.Join(parts, "\x00"), bounded
}

// lineCounts counts equal lines.
type lineCounts struct {
	now func() time.Time

	mu sync.Mutex
	by map[string]*lineCount
}

type lineCount struct {
	since     time.Time // when the period began
	lines     int       // in it
	unwritten int       // since the last that was written
}

// count reports whether one more line is written, and how many were not before it.
func (c *lineCounts) count(key string) (unwritten int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	n := c.of(key)
	if now.Sub(n.since) >= samplePeriod || now.Before(n.since) {
		n.since, n.lines = now, 0
	}
	if n.lines++; n.lines > sampleLines {
		n.unwritten++
		return 0, false
	}
	unwritten, n.unwritten = n.unwritten, 0
	return unwritten, true
}

func (c *lineCounts) of(key string) *lineCount {
	n, ok := c.by[key]
	if !ok && len(c.by) >= sampleKinds {
		key = ""
		n, ok = c.by[key]
	}
	if !ok {
		n = &lineCount{}
		c.by[key] = n
	}
	return n
}
