package limit

import "sync"

// Places are what strangers hold at once: so many in all, and of one key a quarter of
// them, or a 64th once half are taken, and one at least. They are safe for concurrent
// use. The rule is that of the servers' own ports, which have it for addresses.
type Places struct {
	all int

	mu    sync.Mutex
	taken int
	by    map[string]int // no entry is zero
}

// NewPlaces returns so many places.
func NewPlaces(all int) *Places { return &Places{all: all, by: map[string]int{}} }

// Take takes a place, if there is one left for the key. It is to be released once.
func (p *Places) Take(key string) (release func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	share := p.all / 4
	if p.taken >= p.all/2 {
		share = p.all / 64
	}
	if p.taken >= p.all || p.by[key] >= max(1, share) {
		return nil, false
	}
	p.taken++
	p.by[key]++
	return func() { p.release(key) }, true
}

func (p *Places) release(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[key]--; p.by[key] == 0 {
		delete(p.by, key)
	}
}
