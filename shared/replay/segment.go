package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The format of a segment, as JOURNAL.md defines it: a header, then records.
// Integers are big-endian, times are Unix milliseconds.
const (
	magic         = "handoffJ"
	formatVersion = 1
	headerSize    = 72
	recordSize    = 24
	suffix        = ".journal"
)

// header is what a journal knows when it begins a segment. The newest segment's
// holds all that must outlive a process, beside the marks.
type header struct {
	boot     bootID
	sequence uint64
	clock    time.Time     // the journal's clock, which never goes back
	after    time.Time     // what was issued at or before is refused
	passed   time.Time     // what expires at or before is refused: its mark may have been dropped
	skew     time.Duration // with which marks are made, to the next millisecond
}

// tenure is how long a segment takes marks, by the journal's clock from its
// header's on. So a header bounds the time of every mark beneath it, and of those
// that are lost.
const tenure = period + 4*time.Second

// over reports whether the segment must take no more marks.
func (h *header) over(clock time.Time) bool { return clock.After(h.clock.Add(tenure)) }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func (h *header) encode() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, formatVersion)
	b = append(b, h.boot[:]...)
	b = binary.BigEndian.AppendUint64(b, h.sequence)
	for _, t := range [...]time.Time{h.clock, h.after, h.passed} {
		b = binary.BigEndian.AppendUint64(b, uint64(t.UnixMilli()))
	}
	b = binary.BigEndian.AppendUint32(b, uint32((h.skew+time.Millisecond-1)/time.Millisecond))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

var (
	errDamaged = errors.New("damaged")
	errVersion = errors.New("written by another version of this package")
)

func decodeHeader(b []byte, sequence uint64) (h header, err error) {
	if len(b) != headerSize || string(b[:8]) != magic {
		return h, errDamaged
	}
	if binary.BigEndian.Uint64(b[8:]) != formatVersion {
		return h, errVersion
	}
	if crc32.Checksum(b[:headerSize-4], castagnoli()) != binary.BigEndian.Uint32(b[headerSize-4:]) {
		return h, errDamaged
	}
	at := func(offset int) time.Time { return time.UnixMilli(int64(binary.BigEndian.Uint64(b[offset:]))) }
	h = header{
		boot: bootID(b[16:32]), sequence: binary.BigEndian.Uint64(b[32:]), clock: at(40), after: at(48), passed: at(56),
		skew: time.Duration(binary.BigEndian.Uint32(b[64:])) * time.Millisecond,
	}
	if h.sequence != sequence {
		return h, errDamaged
	}
	return h, nil
}

// mark is what a record says.
type mark struct {
	key     key
	expires int64 // Unix seconds
}

// codec writes and reads the records of one segment. A record's checksum begins
// with the header's, so that it belongs to one segment alone.
type codec struct {
	seed  uint32
	epoch int64 // Unix seconds from which expiries are counted
	table *crc32.Table
}

func (h *header) codec() codec {
	encoded := h.encode()
	return codec{
		seed:  binary.BigEndian.Uint32(encoded[headerSize-4:]),
		epoch: h.clock.Unix(),
		table: castagnoli(),
	}
}

func (c *codec) append(b []byte, m mark) []byte {
	start := len(b)
	b = append(b, m.key[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(int32(m.expires-c.epoch)))
	return binary.BigEndian.AppendUint32(b, crc32.Update(c.seed, c.table, b[start:]))
}

func (c *codec) decode(b []byte) (m mark, ok bool) {
	if crc32.Update(c.seed, c.table, b[:20]) != binary.BigEndian.Uint32(b[20:]) {
		return m, false
	}
	return mark{key(b[:16]), c.epoch + int64(int32(binary.BigEndian.Uint32(b[16:])))}, true
}

// segment is a file of a journal.
type segment struct {
	header header
	path   string
	latest int64 // the latest exp of its marks, Unix seconds; zero without any
	// damaged: it has no header, and no record that can be read.
	damaged bool

	// What follows is the writer's.
	file  *os.File
	codec codec
	buf   []byte
	size  int64
}

// write appends marks in one write(2). When it fails, what it left is cut off, so
// that a full disk is not kept full; that is a courtesy, which nothing relies on.
func (s *segment) write(marks []mark) error {
	s.buf = s.buf[:0]
	for _, m := range marks {
		s.buf = s.codec.append(s.buf, m)
	}
	if _, err := s.file.Write(s.buf); err != nil {
		return errors.Join(err, s.file.Truncate(s.size))
	}
	s.size += int64(len(s.buf))
	for _, m := range marks {
		s.latest = max(s.latest, m.expires)
	}
	return nil
}

func segmentPath(dir string, sequence uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", sequence, suffix))
}

// listSegments returns the sequence numbers of a journal's segments, ascending.
func listSegments(dir string) (sequences []uint64, err error) {
	entries, err := os.ReadDir(dir) // in the order of the names
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if n, err := strconv.ParseUint(name, 16, 64); ok && err == nil && len(name) == 16 {
			sequences = append(sequences, n)
		}
	}
	return sequences, nil
}

// createSegment makes a segment, whose header reaches the disk before its name
// does.
func createSegment(dir *os.File, h header) (*segment, error) {
	next := filepath.Join(dir.Name(), "next")
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{header: h, path: segmentPath(dir.Name(), h.sequence), file: f, codec: h.codec(), size: headerSize}
	if _, err = f.Write(h.encode()); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(next, s.path)
	}
	if err == nil {
		err = dir.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// readHeader returns errDamaged for a header that is not whole or not that of
// the segment with this number.
func readHeader(path string, sequence uint64) (h header, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	b := make([]byte, headerSize)
	n, err := io.ReadFull(f, b)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return h, err
	}
	return decodeHeader(b[:n], sequence)
}

// reader reads segments, one after the other, through the same buffers.
type reader struct {
	raw    []byte
	marks  []mark
	sorted []mark // for marks.load
}

// A reader handles this many marks at a time: the more, the better marks.load uses
// the processor's caches. It costs 18 MB while a journal is opened.
const recordsAtOnce = 1 << 18

func newReader() *reader {
	return &reader{
		raw:    make([]byte, recordsAtOnce*recordSize),
		marks:  make([]mark, 0, recordsAtOnce),
		sorted: make([]mark, recordsAtOnce),
	}
}

// records calls each for the marks of a segment, many at a time, and returns
// errDamaged at the first record whose checksum is wrong.
//
// What is shorter than a record at the end is no damage: it is what a write left
// that failed or was killed. It was never acknowledged, and while the machine
// runs a file loses nothing of what was written before.
func (r *reader) records(path string, h *header, each func([]mark)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(headerSize, io.SeekStart); err != nil {
		return err
	}
	for c := h.codec(); ; {
		n, end := io.ReadFull(f, r.raw)
		err := r.decode(&c, r.raw[:n])
		each(r.marks)
		switch {
		case err != nil:
			return err
		case end == io.EOF || end == io.ErrUnexpectedEOF:
			return nil
		case end != nil:
			return end
		}
	}
}

// decode fills marks up to the first damaged record.
func (r *reader) decode(c *codec, raw []byte) error {
	r.marks = r.marks[:0]
	for ; len(raw) >= recordSize; raw = raw[recordSize:] {
		m, ok := c.decode(raw[:recordSize])
		if !ok {
			return errDamaged
		}
		r.marks = append(r.marks, m)
	}
	return nil
}
