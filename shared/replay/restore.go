package replay

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errEmpty    = fmt.Errorf("the folder has no journal in it, and must go before one is made: %w", fs.ErrNotExist)
	errReboot   = errors.New("the machine has started since it was written")
	errNoBootID = errors.New("the kernel does not tell whether the machine has started since it was written")
)

// restore reads the marks and begins a segment.
func (j *Journal) restore(c Config) error {
	old, doubt, err := readHeaders(j.dir)
	if err != nil {
		return err
	}
	now := c.Now()
	h, skew := successor(old, now, c.Skew)
	newest := old[len(old)-1]
	if doubt == nil && !newest.header.boot.same(h.boot) {
		if doubt = errReboot; h.boot == (bootID{}) {
			doubt = errNoBootID
		}
	}
	j.marks = newMarks(c)
	j.marks.see(later(now, h.clock).UnixMilli())
	if err := j.marks.read(j.dir, old); isDoubt(err) {
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
	h.oldest = h.sequence
	if doubt == nil {
		h.oldest = old[0].header.sequence
	}
	newest = old[len(old)-1]
	if doubt == nil && newest.unused && len(old) > 1 { // the process was killed before it went on with it
		old = old[:len(old)-1]
		h.sequence, newest = newest.header.sequence, old[len(old)-1]
	}
	if doubt == nil && !newest.header.closed {
		h.former = newest.size // which a process that was killed did not seal
	}
	return j.begin(h, old, doubt, c.Observe)
}

// successor returns the header of the segment that follows the old ones, and the
// largest skew with which a mark can have been made.
func successor(old []*segment, now time.Time, skew time.Duration) (h header, largest time.Duration) {
	h, largest = header{boot: currentBoot(), passed: now.Add(-2 * skew), skew: skew}, skew
	for _, s := range old {
		h.sequence = max(h.sequence, s.header.sequence+1)
		h.clock = later(h.clock, s.header.clock)
		largest = max(largest, s.header.skew)
		h.after = later(h.after, s.header.after)
		h.passed = later(h.passed, s.header.passed)
	}
	return h, largest
}

// begin begins a segment after the old ones, or in their place if there is doubt.
func (j *Journal) begin(h header, old []*segment, doubt error, observe func(Event)) error {
	j.marks.after, j.marks.passed = h.after, h.passed
	s, err := createSegment(j.dir, h)
	if err != nil {
		return err
	}
	j.begun = h
	j.writer = startWriter(s, j.marks.latest, j.dir.standing, observe)
	if doubt == nil {
		j.old = old
		if newest := old[len(old)-1]; newest.header.closed {
			if err := newest.supersede(j.dir, h.sequence); err != nil {
				return errors.Join(err, s.file.Close())
			}
		}
		observe(Event{Kind: Restored, Marks: j.Live()})
		return nil
	}
	// What is doubtful has served its turn: h.after covers every mark in it.
	j.remove(old)
	observe(Event{Kind: StartedOver, Marks: j.Live(), Err: doubt})
	return nil
}

// isDoubt reports whether an error means that marks may be missing.
func isDoubt(err error) bool {
	return errors.Is(err, errDamaged) || errors.Is(err, errCopied) || errors.Is(err, errMissing)
}

// readHeaders returns a journal's segments in their order, at least one. doubt
// says which of them has no header or is missing, and why.
func readHeaders(dir *folder) (segments []*segment, doubt, err error) {
	sequences, err := listSegments(dir)
	if err != nil {
		return nil, nil, err
	}
	if len(sequences) == 0 {
		return nil, nil, errEmpty
	}
	for _, n := range sequences {
		s := &segment{name: segmentName(n)}
		s.header, err = readHeader(dir, n)
		if errors.Is(err, errDamaged) {
			s.header = header{sequence: n}
		}
		if isDoubt(err) {
			s.damaged = true
			doubt = fmt.Errorf("segment %d: %w", n, err)
		} else if err != nil {
			return nil, nil, fmt.Errorf("segment %d: %w", n, err)
		}
		segments = append(segments, s)
	}
	if newest := segments[len(segments)-1]; !newest.damaged && !newest.header.closed && newest.header.former == 0 {
		info, err := dir.Lstat(newest.name)
		newest.unused = err == nil && info.Size() == headerSize
	}
	if doubt == nil {
		doubt = complete(segments)
	}
	return segments, doubt, nil
}

// complete returns errMissing where the newest segment needs one that is not there.
// One that is there and not needed, as it could not be removed, does no harm.
func complete(all []*segment) error {
	newest := all[len(all)-1].header
	there := uint64(0)
	for _, s := range all {
		if s.header.sequence >= newest.oldest {
			there++
		}
	}
	if there != newest.sequence-newest.oldest+1 {
		return fmt.Errorf("segments %d to %d: %w", newest.oldest, newest.sequence, errMissing)
	}
	return nil
}

// read adds the marks in the segments, several at a time, and sets when each
// segment's last mark ends. It goes on after errDamaged.
func (m *marks) read(dir *folder, segments []*segment) error {
	errs := make([]error, len(segments))
	var next atomic.Int64
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			r := newReader()
			for i := next.Add(1) - 1; i < int64(len(segments)); i = next.Add(1) - 1 {
				var next *segment
				if i+1 < int64(len(segments)) {
					next = segments[i+1]
				}
				if err := m.readSegment(dir, r, segments[i], next); err != nil {
					errs[i] = fmt.Errorf("segment %d: %w", segments[i].header.sequence, err)
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// readSegment reads a segment, whole: what it must have shows its seal or the next
// segment's header. Only the newest need not have one, where its process was
// killed: what write(2) took is in the file then, and what is shorter than a record
// is what a write left that was never acknowledged.
func (m *marks) readSegment(dir *folder, r *reader, s, next *segment) error {
	if s.damaged {
		return nil
	}
	var size int64
	if next != nil {
		size = next.header.former
	}
	s.size = headerSize
	e, err := r.records(dir, s, size, func(all []mark) {
		for i := range all {
			s.latest = max(s.latest, all[i].expires)
		}
		s.size += int64(len(all)) * recordSize
		m.load(all, r.sorted)
	})
	follows := s.header.sequence + 1
	switch {
	case err != nil:
		return err
	case s.header.closed && (s.size != headerSize || e.torn):
		return errDamaged
	case next == nil && e.next != 0: // it was not the newest
		return errMissing
	case next == nil || s.header.closed || e.next == follows:
		return nil
	case size > 0 && size == s.size:
		return nil
	case size == 0 && e.next == 0 && next.unused:
		return nil
	}
	return errMissing
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
