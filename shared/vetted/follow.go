package vetted

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// interval is how long lookups go on without looking at the files.
const interval = time.Second

// Followed is what was made of files that are read again when they change. It is
// safe for concurrent use.
type Followed[T any] struct {
	files   []File
	read    func(texts [][]byte) (T, error)
	observe func(error)

	start   time.Time
	checked atomic.Int64 // when the files were last looked at, since start
	current atomic.Pointer[T]

	mu     sync.Mutex        // guards the rest
	digest [sha256.Size]byte // of the texts of which current was made
	fault  string            // why it stays, as text; empty: it is what the files say
}

// Follow makes a T of files, in their order, by read, and returns what is wrong
// with them as they are now. From then on observe is told, if it is not nil, of each
// change: nil when a new T is in force, or why the last good one stays. It is told
// once, not each second, by whichever lookup finds the change, so it must not block.
// read judges the moment, too: it is asked again about a bad content.
func Follow[T any](read func(texts [][]byte) (T, error), observe func(error), files ...File) (*Followed[T], error) {
	f := &Followed[T]{files: files, read: read, observe: observe, start: time.Now()}
	texts, err := f.content()
	if err != nil {
		return nil, err
	}
	first, err := read(texts)
	if err != nil {
		return nil, err
	}
	f.digest = digest(texts)
	f.current.Store(&first)
	return f, nil
}

// Get returns what the files say, or said when they were last good.
func (f *Followed[T]) Get() T {
	if f.due() {
		f.mu.Lock() // lookups that come meanwhile wait for what this one finds
		var told func()
		if f.due() {
			told = f.look()
		}
		f.mu.Unlock()
		if told != nil {
			told()
		}
	}
	return *f.current.Load()
}

// Look reads the files now, even if they have been read within the second.
func (f *Followed[T]) Look() {
	f.mu.Lock()
	told := f.look()
	f.mu.Unlock()
	told()
}

func (f *Followed[T]) due() bool {
	return time.Since(f.start)-time.Duration(f.checked.Load()) >= interval
}

// look returns what tells the observer of a change; it runs without the lock.
func (f *Followed[T]) look() (tell func()) {
	fresh, err := f.renew()
	f.checked.Store(int64(time.Since(f.start)))
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	news := fresh || fault != f.fault
	f.fault = fault
	return func() {
		if news && f.observe != nil {
			f.observe(err)
		}
	}
}

// renew brings the files' content into force if it is good and another.
func (f *Followed[T]) renew() (fresh bool, err error) {
	texts, err := f.content()
	if err != nil {
		return false, err
	}
	found := digest(texts)
	if found == f.digest {
		return false, nil
	}
	next, err := f.read(texts)
	if err != nil {
		return false, err
	}
	f.digest = found
	f.current.Store(&next)
	return true, nil
}

func (f *Followed[T]) content() ([][]byte, error) {
	texts := make([][]byte, len(f.files))
	for i, file := range f.files {
		var err error
		if texts[i], err = file.Read(); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// digest keeps apart what the files say, so that nothing of a secret has to be kept.
func digest(texts [][]byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, text := range texts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		h.Write(text)
	}
	h.Sum(sum[:0])
	return sum
}
