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
	sampleUsers  = 1 << 14
)

// Sampled returns a handler that writes few of the equal lines that say how a call
// ended, or that one was refused, and all others: a decision that lets a call through
// has its line. Lines are equal that have the same message, method, reason, check,
// outcome and code, for all users together. A line with "reusable" is about a call that
// its caller may make again and again: few are written of those that are equal and of
// one user. The first line that is written after some were not says how many, as
// "unwritten".
func Sampled(next slog.Handler) slog.Handler {
	return &sampled{next, newLineCounts(sampleKinds), newLineCounts(sampleUsers)}
}

type sampled struct {
	next   slog.Handler
	counts *lineCounts // shared with the handlers that are derived from this one
	users  *lineCounts // likewise, of lines with "reusable"
}

// Enabled is slog's.
func (s *sampled) Enabled(ctx context.Context, level slog.Level) bool {
	return s.next.Enabled(ctx, level)
}

// WithAttrs is slog's.
func (s *sampled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &sampled{s.next.WithAttrs(attrs), s.counts, s.users}
}

// WithGroup is slog's.
func (s *sampled) WithGroup(name string) slog.Handler {
	return &sampled{s.next.WithGroup(name), s.counts, s.users}
}

// Handle is slog's.
func (s *sampled) Handle(ctx context.Context, line slog.Record) error {
	if key, counts := s.kindOf(line); counts != nil {
		unwritten, ok := counts.count(key)
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

// kindOf returns what makes lines equal, and where they are counted; nil: all of the
// kind are written.
func (s *sampled) kindOf(line slog.Record) (key string, counts *lineCounts) {
	parts, user := []string{line.Message}, []string{}
	line.Attrs(func(a slog.Attr) bool {
		value := a.Value.String()
		switch a.Key {
		case "grpc.code":
			counts = s.counts
		case "outcome":
			if value == "refused" || value == "answered" { // by what the same token got before
				counts = s.counts
			}
		case "reusable":
			counts = s.users
		case "issuer", "subject":
			user = append(user, value)
			return true
		case "method", "grpc.service", "grpc.method", "reason", "check":
		default:
			return true
		}
		parts = append(parts, value)
		return true
	})
	if counts == s.users {
		parts = append(parts, user...)
	}
	return strings.Join(parts, "\x00"), counts
}

// lineCounts counts equal lines.
type lineCounts struct {
	now  func() time.Time
	most int // kinds

	mu    sync.Mutex
	by    map[string]*lineCount
	swept time.Time
}

func newLineCounts(most int) *lineCounts {
	return &lineCounts{now: time.Now, most: most, by: map[string]*lineCount{}}
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
	n := c.of(key, now)
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

func (c *lineCounts) of(key string, now time.Time) *lineCount {
	if c.by[key] == nil && len(c.by) >= c.most {
		c.sweep(now)
	}
	if c.by[key] == nil && len(c.by) >= c.most {
		key = ""
	}
	n := c.by[key]
	if n == nil {
		n = &lineCount{}
		c.by[key] = n
	}
	return n
}

// sweep forgets the kinds whose period is over, at most once a second. What was not
// written of them counts for the rest.
func (c *lineCounts) sweep(now time.Time) {
	if since := now.Sub(c.swept); since >= 0 && since < time.Second {
		return
	}
	c.swept = now
	unwritten := 0
	for key, n := range c.by {
		if key != "" && now.Sub(n.since) >= samplePeriod {
			unwritten += n.unwritten
			delete(c.by, key)
		}
	}
	if unwritten > 0 {
		if c.by[""] == nil {
			c.by[""] = &lineCount{}
		}
		c.by[""].unwritten += unwritten
	}
}
