package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// The format of a segment, as JOURNAL.md defines it: a header, then records.
// Integers are big-endian, times are Unix milliseconds.
const (
	magic         = "handoffJ"
	formatVersion = 1
	headerSize    = 124
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
	closed   bool          // it takes no marks: the journal was closed in order
	oldest   uint64        // the first segment that is needed; all from there to this one are
	former   int64         // the bytes of the segment before it that count, where it could not be sealed; or zero
	file     identity      // of the segment's own file
	dir      uint64        // the inode of the folder
}

// tenure is how long a segment takes marks, by the journal's clock from its
// header's on. So a header bounds the time of every mark beneath it, and of those
// that are lost.
const tenure = period + 4*time.Second

// over reports whether the segment must take no more marks.
func (h *header) over(clock time.Time) bool { return clock.After(h.clock.Add(tenure)) }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func (h *header) encode() []byte {
	flags := map[bool]uint32{true: 1}
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, formatVersion)
	b = append(b, h.boot[:]...)
	b = binary.BigEndian.AppendUint64(b, h.sequence)
	for _, t := range [...]time.Time{h.clock, h.after, h.passed} {
		b = binary.BigEndian.AppendUint64(b, uint64(t.UnixMilli()))
	}
	b = binary.BigEndian.AppendUint32(b, uint32((h.skew+time.Millisecond-1)/time.Millisecond))
	b = binary.BigEndian.AppendUint32(b, flags[h.closed])
	for _, n := range [...]uint64{h.oldest, uint64(h.former), h.file.device, h.file.inode, h.dir, uint64(h.file.born)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

var (
	errDamaged = errors.New("damaged")
	errVersion = errors.New("written by another version of this package")
	errCopied  = errors.New("a copy of the file that was written")
	errMissing = errors.New("a part of it is missing")
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
		skew:   time.Duration(binary.BigEndian.Uint32(b[64:])) * time.Millisecond,
		closed: binary.BigEndian.Uint32(b[68:]) == 1, oldest: binary.BigEndian.Uint64(b[72:]), former: int64(binary.BigEndian.Uint64(b[80:])),
		file: identity{binary.BigEndian.Uint64(b[88:]), binary.BigEndian.Uint64(b[96:]), int64(binary.BigEndian.Uint64(b[112:]))}, dir: binary.BigEndian.Uint64(b[104:]),
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

// codec writes and reads the records of one segment, one after the other. A
// record's checksum begins with that of the one before it, the first's with the
// header's: none can be left out, and each belongs to one segment only.
type codec struct {
	chain uint32
	epoch int64 // Unix seconds from which expiries are counted
	table *crc32.Table
}

func (h *header) codec() codec {
	encoded := h.encode()
	return codec{
		chain: binary.BigEndian.Uint32(encoded[headerSize-4:]),
		epoch: h.clock.Unix(),
		table: castagnoli(),
	}
}

func (c *codec) append(b []byte, m mark) []byte {
	start := len(b)
	b = append(b, m.key[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(int32(m.expires-c.epoch)))
	c.chain = crc32.Update(c.chain, c.table, b[start:])
	return binary.BigEndian.AppendUint32(b, c.chain)
}

// sealed is the expiry of a seal, the record after which a segment has no other.
// Its key ends with the number of the segment that follows.
const sealed = math.MinInt32

func (c *codec) appendSeal(b []byte, next uint64) []byte {
	var k key
	binary.BigEndian.PutUint64(k[8:], next)
	return c.append(b, mark{k, c.epoch + sealed})
}

// decode reads a record. next is not zero where it is a seal.
func (c *codec) decode(b []byte) (m mark, next uint64, ok bool) {
	c.chain = crc32.Update(c.chain, c.table, b[:20])
	if c.chain != binary.BigEndian.Uint32(b[20:]) {
		return m, 0, false
	}
	after := int64(int32(binary.BigEndian.Uint32(b[16:])))
	m = mark{key(b[:16]), c.epoch + after}
	if after == sealed {
		next = binary.BigEndian.Uint64(b[8:])
	}
	return m, next, true
}

// segment is a file of a journal.
type segment struct {
	header header
	name   string
	latest int64 // the latest exp of its marks, Unix seconds; zero without any
	// damaged: it has no header, and no record that can be read.
	damaged bool
	// unused: it is the newest, and its process had not gone on with it yet.
	unused bool

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

// seal says that the segment is whole, and which one follows.
func (s *segment) seal(next uint64) error {
	_, err := s.file.Write(s.codec.appendSeal(nil, next))
	return err
}

// supersede says that another follows a segment that closed the journal, so that
// it does not close it again.
func (s *segment) supersede(dir *folder, next uint64) (err error) {
	if s.file, err = dir.OpenFile(s.name, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return err
	}
	s.codec = s.header.codec()
	return errors.Join(s.seal(next), s.file.Close())
}

func segmentName(sequence uint64) string { return fmt.Sprintf("%016x%s", sequence, suffix) }

// listSegments returns the sequence numbers of a journal's segments, ascending.
func listSegments(dir *folder) (sequences []uint64, err error) {
	entries, err := fs.ReadDir(dir.FS(), ".") // in the order of the names
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
func createSegment(dir *folder, h header) (*segment, error) {
	if err := dir.standing(); err != nil {
		return nil, err
	}
	const next = "next"
	if err := dir.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := dir.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if h.file, err = identify(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	h.dir = dir.identity.inode
	s := &segment{header: h, name: segmentName(h.sequence), file: f, codec: h.codec(), size: headerSize}
	if _, err = f.Write(h.encode()); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = dir.Rename(next, s.name)
	}
	if err == nil {
		err = dir.handle.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// readHeader returns errDamaged for a header that is not whole, or not that of
// the segment with this number, and errCopied for one of another file.
func readHeader(dir *folder, sequence uint64) (h header, err error) {
	f, err := dir.openFile(segmentName(sequence))
	if err != nil {
		return h, err
	}
	defer f.Close()
	b := make([]byte, headerSize)
	n, err := io.ReadFull(f, b)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return h, err
	}
	if h, err = decodeHeader(b[:n], sequence); err != nil {
		return h, err
	}
	file, err := identify(f)
	if err == nil && (h.file != file || h.dir != dir.identity.inode) {
		err = errCopied
	}
	return h, err
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

// end is how a segment's records end.
type end struct {
	next uint64 // of a seal, the segment that follows; zero without one
	torn bool   // a part of a record is behind the last
}

// records calls each for the marks of a segment, many at a time, up to a size where
// that is not zero. It returns errDamaged at the first record whose checksum is
// wrong, and where anything is behind a seal.
func (r *reader) records(dir *folder, s *segment, size int64, each func([]mark)) (e end, err error) {
	f, err := dir.openFile(s.name)
	if err != nil {
		return e, err
	}
	defer f.Close()
	var in io.Reader = f
	if size > 0 {
		in = io.LimitReader(f, size)
	}
	if _, err := io.CopyN(io.Discard, in, headerSize); err != nil {
		return e, errDamaged
	}
	for c := s.header.codec(); ; {
		n, ended := io.ReadFull(in, r.raw)
		if n > 0 && e.next != 0 {
			return e, errDamaged
		}
		e.next, err = r.decode(&c, r.raw[:n])
		e.torn = n%recordSize != 0
		each(r.marks)
		switch {
		case err != nil:
			return e, err
		case e.next != 0 && e.torn:
			return e, errDamaged
		case ended == io.EOF || ended == io.ErrUnexpectedEOF:
			return e, nil
		case ended != nil:
			return e, ended
		}
	}
}

// decode fills marks up to the first damaged record. next is that of a seal.
func (r *reader) decode(c *codec, raw []byte) (next uint64, err error) {
	r.marks = r.marks[:0]
	for ; len(raw) >= recordSize; raw = raw[recordSize:] {
		m, sealed, ok := c.decode(raw[:recordSize])
		if !ok || next != 0 {
			return next, errDamaged
		}
		if next = sealed; next == 0 {
			r.marks = append(r.marks, m)
		}
	}
	return next, nil
}
