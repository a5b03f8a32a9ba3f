package replay

import (
	"encoding/binary"
	"math/bits"

	"github.com/handoff-auth/handoff/shared/replay/internal/remote"
)

// A key stands for (issuer, id): the first 128 bits of a SHA-256. Both parts are
// hashed, so that someone who chooses ids can neither meet another issuer's keys
// nor make keys collide.
type key [16]byte

func newKey(issuer, id string) key { return remote.Mark(issuer, id) }

// high and low are independent halves: one places a key in its table, the other
// finds the shard.
func (k *key) high() uint64 { return binary.BigEndian.Uint64(k[:8]) }
func (k *key) low() uint64  { return binary.BigEndian.Uint64(k[8:]) }

// A table is a set of keys, in one slice without pointers, so that the garbage
// collector never looks inside: open addressing with linear probing, and keys in
// almost ascending order. The zero table is empty.
type table struct {
	slots []key // the zero key is an empty slot
	used  int
}

// A table is 53 to 80 % full: 20 to 30 bytes a key.
const (
	minSlots  = 16
	fullNum   = 4
	fullDen   = 5
	growthNum = 3
	growthDen = 2
)

// has reports whether the table holds k. It finds the all-zero key, one in
// 2^128, in every table that has an empty slot: a refusal, so it needs no care.
func (t *table) has(k *key) bool {
	if t.used == 0 {
		return false
	}
	for i := t.home(k); ; {
		if t.slots[i] == *k {
			return true
		}
		if t.slots[i] == (key{}) {
			return false
		}
		if i++; i == len(t.slots) {
			i = 0
		}
	}
}

// add puts k, which the table does not hold, into it.
func (t *table) add(k *key) {
	if t.used >= len(t.slots)*fullNum/fullDen {
		t.grow()
	}
	t.place(k)
	t.used++
}

func (t *table) place(k *key) {
	i := t.home(k)
	for t.slots[i] != (key{}) {
		if i++; i == len(t.slots) {
			i = 0
		}
	}
	t.slots[i] = *k
}

// home is the slot where the search for k begins. It preserves the keys' order,
// so that grow walks both slices from front to back.
func (t *table) home(k *key) int {
	i, _ := bits.Mul64(k.high(), uint64(len(t.slots)))
	return int(i)
}

func (t *table) grow() {
	old := t.slots
	t.slots = make([]key, max(minSlots, len(old)*growthNum/growthDen))
	for i := range old {
		if old[i] != (key{}) {
			t.place(&old[i])
		}
	}
}
