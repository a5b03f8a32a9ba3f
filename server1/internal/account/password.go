package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/handoff-auth/handoff/server1/internal/limit"
)

// ErrBusy means that as many passwords are being hashed, and are waiting for
// it, as this process bears, or of one network.
var ErrBusy = errors.New("too many passwords are being checked")

// cost is argon2id's work (RFC 9106): OWASP's first choice, 31 ms and 19 MiB.
type cost struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

var usual = cost{memory: 19 << 10, passes: 2, threads: 1}

const (
	saltSize = 16 // bytes
	keySize  = 32
	waiting  = 64 // hashes that may wait for a turn, of one network: about a second's work of two cores
)

// Hasher hashes passwords with argon2id, one at a time for each core, so that
// sign-ins cannot take all memory. It is safe for concurrent use.
type Hasher struct {
	derive  func(password, salt []byte, passes, memory uint32, threads uint8, size uint32) []byte
	admit   *limit.Places // of those who sign in, by where they come from
	proven  chan struct{} // of those who are known: strangers keep none of them out
	turn    chan struct{}
	nobodys stored // what no password matches
}

// NewHasher returns a Hasher.
func NewHasher() *Hasher {
	cores := runtime.GOMAXPROCS(0)
	return &Hasher{
		derive:  argon2.IDKey,
		admit:   limit.NewPlaces(4 * (cores + waiting)),
		proven:  make(chan struct{}, cores+waiting),
		turn:    make(chan struct{}, cores),
		nobodys: stored{cost: usual, salt: random(saltSize), key: random(keySize)},
	}
}

// Hash returns a new PHC string of a password.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	s := stored{cost: usual, salt: random(saltSize)}
	var err error
	s.key, err = h.key(ctx, s, password, h.known)
	return s.String(), err
}

// queue is where a hash waits for its turn, from enter until leave.
type queue func() (leave func(), ok bool)

// strangers is the queue of those who sign in, of which each network has a share.
func (h *Hasher) strangers(network string) queue {
	return func() (leave func(), ok bool) { return h.admit.Take(network) }
}

// known is the queue of those who have proved who they are.
func (h *Hasher) known() (leave func(), ok bool) {
	select {
	case h.proven <- struct{}{}:
		return func() { <-h.proven }, true
	default:
		return nil, false
	}
}

// matches reports whether phc is a hash of password. An empty phc stands for a
// user who does not exist: the work is the same, and the answer no.
func (h *Hasher) matches(ctx context.Context, phc, password string, enter queue) (bool, error) {
	s := h.nobodys
	if phc != "" {
		var err error
		if s, err = parse(phc); err != nil {
			return false, err
		}
	}
	key, err := h.key(ctx, s, password, enter)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, s.key) == 1 && phc != "", nil
}

// key does the work, when it is its turn.
func (h *Hasher) key(ctx context.Context, s stored, password string, enter queue) ([]byte, error) {
	leave, ok := enter()
	if !ok {
		return nil, ErrBusy
	}
	defer leave()
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return h.derive([]byte(password), s.salt, s.cost.passes, s.cost.memory, s.cost.threads, keySize), nil
}

func random(size int) []byte {
	b := make([]byte, size)
	rand.Read(b) // never fails: it crashes the program instead
	return b
}

// stored is a hash as the database keeps it.
type stored struct {
	cost cost
	salt []byte
	key  []byte
}

// String returns the PHC string.
func (s stored) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		s.cost.memory, s.cost.passes, s.cost.threads, base64.RawStdEncoding.EncodeToString(s.salt), base64.RawStdEncoding.EncodeToString(s.key))
}

// parse reads what String writes. A cost far from the usual one is not this
// program's, and would only exhaust it.
func parse(phc string) (stored, error) {
	malformed := errors.New("a stored password hash is not an argon2id PHC string of this program's")
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return stored{}, malformed
	}
	var s stored
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &s.cost.memory, &s.cost.passes, &s.cost.threads); err != nil || n != 3 {
		return stored{}, malformed
	}
	var err, err2 error
	s.salt, err = base64.RawStdEncoding.DecodeString(parts[4])
	s.key, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	inRange := s.cost.memory >= 8<<10 && s.cost.memory <= 256<<10 && s.cost.passes >= 1 && s.cost.passes <= 16 &&
		s.cost.threads >= 1 && s.cost.threads <= 16
	if err != nil || err2 != nil || !inRange || len(s.salt) < saltSize || len(s.key) != keySize || s.String() != phc {
		return stored{}, malformed
	}
	return s, nil
}
