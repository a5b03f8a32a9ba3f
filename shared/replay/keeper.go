package replay

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// keep begins a segment every so often, as long as there are marks; when the
// writer needs another, since the last is too old; and after a failed write each
// second until one can be begun.
func (j *Journal) keep(every time.Duration) {
	tick := time.NewTicker(min(every, time.Second))
	defer tick.Stop()
	due := time.Now().Add(every)
	for {
		select {
		case <-j.stop:
			return
		case <-j.writer.due:
			if clock := j.marks.advance(); j.begun.over(clock) {
				due = time.Now().Add(every)
				j.turn(clock)
			}
		case now := <-tick.C:
			clock := j.marks.advance() // an idle store forgets too
			failed := j.writer.failed() != nil
			if err := j.dir.standing(); err != nil && !failed {
				j.writer.refuse(err)
				failed = true
			}
			if !failed && now.Before(due) {
				continue
			}
			due = now.Add(every)
			if failed || j.Live() > 0 || len(j.old) > 0 {
				j.turn(clock)
			}
		}
	}
}

// turn goes on with a new segment and removes the old ones whose marks have all
// ended. Before anything is removed, the new header on the disk says up to when.
func (j *Journal) turn(clock time.Time) {
	h := j.begun
	h.sequence++
	h.clock = clock
	h.former = j.writer.kept.Load()
	h.passed = later(h.passed, clock.Add(-2*j.marks.skew))
	h.oldest = j.oldestNeeded(h.sequence, h.passed)
	s, err := createSegment(j.dir, h)
	if err != nil {
		err = fmt.Errorf("beginning a segment: %w", err)
		switch {
		case j.writer.failed() != nil: // that has been told
		case j.begun.over(clock):
			j.writer.refuse(err)
		default:
			j.observe(Event{Kind: Overdue, Err: err})
		}
		return
	}
	j.begun = h
	j.old = append(j.old, j.writer.swap(s))
	n := 0
	for n < len(j.old) && j.old[n].header.sequence < h.oldest && j.old[n].latest <= h.passed.Unix() {
		n++
	}
	ended := j.old[:n]
	j.old = slices.Clone(j.old[n:])
	j.remove(ended)
}

// oldestNeeded returns the first segment with a mark that has not ended, beside the
// next: what a later Open must find. The writer's own counts, unless there is no
// mark at all.
func (j *Journal) oldestNeeded(next uint64, passed time.Time) uint64 {
	if j.Live() == 0 {
		return next
	}
	for _, s := range j.old {
		if s.latest > passed.Unix() {
			return s.header.sequence
		}
	}
	return next - 1
}

// remove deletes segments. One that cannot be deleted costs only its room: its
// marks have ended, or are covered.
func (j *Journal) remove(segments []*segment) {
	for _, s := range segments {
		if err := j.dir.Remove(s.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			j.observe(Event{Kind: Overdue, Err: fmt.Errorf("removing a segment: %w", err)})
		}
	}
}
