package replay

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errEmpty    = errors.New("no journal is there: replay.Create makes one")
	errReboot   = errors.New("the machine has started since it was written")
	errNoBootID = errors.New("the kernel does not tell whether the machine has started since it was written")
)

// restore reads the marks and begins a segment.
func (j *Journal) restore(c Config) error {
	old, doubt, err := readHeaders(j.dir.Name())
	if err != nil {
		return err
	}
	now := c.Now()
	h := header{boot: currentBoot(), passed: now.Add(-2 * c.Skew), skew: c.Skew}
	skew := c.Skew // the largest with which a mark can have been made
	for _, s := range old {
		h.sequence = max(h.sequence, s.header.sequence+1)
		h.clock = later(h.clock, s.header.clock)
		skew = max(skew, s.header.skew)
		h.after = later(h.after, s.header.after)
		h.passed = later(h.passed, s.header.passed)
	}
	if newest := old[len(old)-1]; doubt == nil && !newest.header.boot.same(h.boot) {
		if doubt = errReboot; h.boot == (bootID{}) {
			doubt = errNoBootID
		}
	}
	j.marks = newMarks(c)
	j.marks.see(later(now, h.clock).UnixMilli())
	if err := j.marks.read(old); errors.Is(err, errDamaged) {
		doubt = err
	} else if err != nil {
		return err
	}
	if doubt != nil {
		// The clock may have been set back since, by however little: so now alone
		// does not bound the time of what is missing. The newest header does.
		h.after = later(h.after, later(now, h.clock.Add(tenure)).Add(skew))
	}
	h.clock = j.marks.latest()
	j.marks.after, j.marks.passed = h.after, h.passed
	s, err := createSegment(j.dir, h)
	if err != nil {
		return err
	}
	j.begun = h
	j.writer = startWriter(s, j.marks.latest, c.Observe)
	if doubt == nil {
		j.old = old
		c.Observe(Event{Kind: Restored, Marks: j.Live()})
		return nil
	}
	// What is doubtful has served its turn: h.after covers every mark in it.
	j.remove(old)
	c.Observe(Event{Kind: BegunAnew, Marks: j.Live(), Err: doubt})
	return nil
}

// readHeaders returns a journal's segments in their order, at least one. doubt
// says which of them has no header, and why.
func readHeaders(dir string) (segments []*segment, doubt, err error) {
	sequences, err := listSegments(dir)
	if err != nil {
		return nil, nil, err
	}
	if len(sequences) == 0 {
		return nil, nil, errEmpty
	}
	for _, n := range sequences {
		s := &segment{path: segmentPath(dir, n)}
		s.header, err = readHeader(s.path, n)
		if errors.Is(err, errDamaged) {
			s.header = header{sequence: n}
			s.damaged = true
			doubt = fmt.Errorf("segment %d: %w", n, err)
		} else if err != nil {
			return nil, nil, fmt.Errorf("segment %d: %w", n, err)
		}
		segments = append(segments, s)
	}
	return segments, doubt, nil
}

// read adds the marks in the segments, several at a time, and sets when each
// segment's last mark ends. It goes on after errDamaged.
func (m *marks) read(segments []*segment) error {
	errs := make([]error, len(segments))
	var next atomic.Int64
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			r := newReader()
			for i := next.Add(1) - 1; i < int64(len(segments)); i = next.Add(1) - 1 {
				if err := m.readSegment(r, segments[i]); err != nil {
					errs[i] = fmt.Errorf("segment %d: %w", segments[i].header.sequence, err)
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (m *marks) readSegment(r *reader, s *segment) error {
	if s.damaged {
		return nil
	}
	return r.records(s.path, &s.header, func(all []mark) {
		for i := range all {
			s.latest = max(s.latest, all[i].expires)
		}
		m.load(all, r.sorted)
	})
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
