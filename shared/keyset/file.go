package keyset

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// interval is how long lookups go on without looking at the file.
const interval = time.Second

// settled is how old a modification time must be, when a file is read, for the
// same time and size to mean the same content later: clocks of file systems are
// coarse, and two writes can bear one time.
const settled = 2 * time.Second

// file is where a set comes from, and what was found there last.
type file struct {
	path    string
	start   time.Time
	checked atomic.Int64 // when it was last looked at, since start

	mu      sync.Mutex // guards the rest
	info    fs.FileInfo
	young   bool              // the content may have changed and info not
	content [sha256.Size]byte // digest of what was last read
	verdict error             // why that content is refused
	told    string            // the last error, as text; empty: all is well
}

// Load reads the key set in a file, and follows the file. It refuses what is not
// a regular file, one that others than its owner can write, and every set that
// Parse refuses. The error names the path.
func Load(path string) (*Set, error) {
	s := &Set{file: &file{path: path, start: time.Now()}}
	if _, err := s.file.look(&s.current); err != nil {
		return nil, err
	}
	return s, nil
}

// due reports whether it is time to look at the file.
func (f *file) due() bool {
	return time.Since(f.start)-time.Duration(f.checked.Load()) >= interval
}

// reload looks at the file. Lookups that come meanwhile wait for what it finds.
func (s *Set) reload() {
	f := s.file
	f.mu.Lock()
	if !f.due() {
		f.mu.Unlock()
		return
	}
	fresh, err := f.look(&s.current)
	f.checked.Store(int64(time.Since(f.start)))
	told := f.told
	f.told = ""
	if err != nil {
		f.told = err.Error()
	}
	news := fresh || f.told != told
	f.mu.Unlock()

	if news && s.Observe != nil {
		s.Observe(err)
	}
}

// look reads the file if it may have changed, and brings a good set into force.
// It reports whether the content is new, and what is wrong with the file as it
// is now.
func (f *file) look(current *atomic.Pointer[keys]) (fresh bool, err error) {
	info, err := os.Stat(f.path)
	switch {
	case err != nil:
		return false, err
	case !info.Mode().IsRegular(): // before it is opened: a pipe would block
		return false, fmt.Errorf("%s: not a regular file", f.path)
	case f.info != nil && !f.young && os.SameFile(info, f.info) && info.Mode() == f.info.Mode() &&
		info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime()):
		return false, f.verdict
	}
	now := time.Now()
	text, info, err := readFile(f.path)
	if err != nil {
		return false, err
	}
	first := f.info == nil
	f.info, f.young = info, now.Sub(info.ModTime()) < settled
	digest := sha256.Sum256(text)
	if !first && digest == f.content {
		return false, f.verdict
	}
	f.content = digest
	k, err := parse(text)
	if err != nil {
		f.verdict = fmt.Errorf("%s: %w", f.path, err)
		return true, f.verdict
	}
	f.verdict = nil
	current.Store(k)
	return true, nil
}

// vet refuses a file whose keys others than its owner could choose. It is told of
// the opened file: what stands at its path can change.
func vet(path string, info fs.FileInfo) error {
	mode := info.Mode()
	switch {
	case !mode.IsRegular():
		return errors.New("not a regular file")
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf("others can write it (mode %04o), and so choose whom to trust: chmod go-w %s", mode.Perm(), path)
	}
	return nil
}

// readFile returns a file's content, cut one byte beyond what is accepted, and
// what it was when it was read.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if err := vet(path, info); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	return text, info, err
}
