package prepared

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Key is a prepared public key, of either kind. It is immutable and safe for
// concurrent use.
type Key struct {
	ed25519 *ed25519Key
	p256    *p256Key
}

// Verify reports whether signature is the key's over message, as a JWS has it (RFC
// 7518 section 3.4, RFC 8037 section 3.1). It keeps neither.
func (k *Key) Verify(message, signature []byte) bool {
	if k.ed25519 != nil {
		return k.ed25519.Verify(message, signature)
	}
	return k.p256.Verify(message, signature)
}

// A Cache keeps at most Places keys, and prepares each with its Uses-th genuine
// signature: what is used less often is not worth the millisecond. When all
// places are taken, a new key gets the place of one that has not been used for
// Idle, or none, and the standard check serves.
const (
	Places = 64
	Uses   = 16
	Idle   = 5 * time.Minute
)

// Cache keeps the prepared keys of one verifier by their ids. In FIPS 140 mode it
// keeps none: the validated module makes the checks there. It is safe for
// concurrent use, and nobody waits while a key is being prepared.
type Cache struct {
	off  bool
	kept atomic.Pointer[map[string]*place] // the map is never written
	full atomic.Int64                      // no place becomes free before this time, in Unix nanoseconds
	mu   sync.Mutex
	base *multiples // guarded by mu; nil before the first Ed25519 key
	now  func() time.Time
}

// place is what the cache knows about one key.
type place struct {
	used atomic.Int64 // in Unix nanoseconds, to the second
	uses atomic.Int32
	key  atomic.Pointer[Key]
}

// NewCache returns an empty cache. It reads the time from now.
func NewCache(now func() time.Time) *Cache {
	c := &Cache{off: fips140.Enabled(), now: now}
	c.kept.Store(&map[string]*place{})
	return c
}

// Get returns the prepared key with this id, or nil.
func (c *Cache) Get(id string) *Key {
	if p := (*c.kept.Load())[id]; p != nil {
		return p.key.Load()
	}
	return nil
}

// Used tells the cache that a signature has verified with this key. An id always
// stands for the same key.
func (c *Cache) Used(id string, public crypto.PublicKey) {
	if c.off || !suits(public) {
		return
	}
	now := c.now().UnixNano()
	p := (*c.kept.Load())[id]
	if p == nil {
		if p = c.take(id, now); p == nil {
			return
		}
	}
	if now-p.used.Load() >= int64(time.Second) {
		p.used.Store(now)
	}
	if p.key.Load() == nil && p.uses.Add(1) >= Uses {
		c.prepare(p, public)
	}
}

// suits reports whether a key can be prepared.
func suits(public crypto.PublicKey) bool {
	switch public := public.(type) {
	case ed25519.PublicKey:
		return true
	case *ecdsa.PublicKey:
		return public.Curve == elliptic.P256()
	}
	return false
}

// take returns a place for a key, or nil if there is none.
func (c *Cache) take(id string, now int64) *place {
	if now < c.full.Load() || !c.mu.TryLock() {
		return nil
	}
	defer c.mu.Unlock()
	kept := maps.Clone(*c.kept.Load())
	if p := kept[id]; p != nil {
		return p
	}
	if len(kept) >= Places {
		oldest, used := oldest(kept)
		if free := used + int64(Idle); now < free {
			c.full.Store(free)
			return nil
		}
		delete(kept, oldest)
	}
	p := new(place)
	p.used.Store(now)
	kept[id] = p
	c.kept.Store(&kept)
	return p
}

// oldest returns the id that has not been used for the longest time.
func oldest(kept map[string]*place) (id string, used int64) {
	for other, p := range kept {
		if at := p.used.Load(); id == "" || at < used {
			id, used = other, at
		}
	}
	return id, used
}

// prepare prepares the key of a place, unless another is being prepared.
func (c *Cache) prepare(p *place, public crypto.PublicKey) {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if p.key.Load() != nil {
		return
	}
	var key Key
	switch public := public.(type) {
	case ed25519.PublicKey:
		if c.base == nil {
			c.base = base25519()
		}
		key.ed25519 = newEd25519(public, c.base)
	case *ecdsa.PublicKey:
		key.p256 = newP256(public)
	}
	if key != (Key{}) {
		p.key.Store(&key)
	}
}
