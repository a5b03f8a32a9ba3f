package trust

import (
	"encoding/base64"
	"errors"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

var profile = handoff.Profile{Typ: "handoff-trust+jwt", MaxLength: 128 << 10}

// Profile returns the kind of JWT that states a trust list: `typ`
// handoff-trust+jwt, at most 128 KiB, which 64 keys of any kind fit into.
func Profile() handoff.Profile { return profile }

// MaxKeys is how many keys a list names at most. Of a State with more there is no
// list (SPEC.md section 2).
const MaxKeys = 64

const (
	maxHeader = 512          // bytes of the encoded header, which has three short members
	maxTime   = 253402300799 // the last second of the year 9999
)

type (
	// id is a token's or a session's: 128 bits in base64url, of which each has one
	// spelling, so that to look one up is not to decode it.
	id     [22]byte
	digest [32]byte
)

// list is what a trust list says. Once it is made it does not change.
type list struct {
	issuer            string
	issuedAt, expires time.Time // whole seconds
	seq               int64
	keys              []handoff.Key
	digest            digest // of the entries
	*entries                 // nil while they are not known
}

var base64url = base64.RawURLEncoding.Strict()

func parseID(text string) (id, error) {
	var bits [16]byte
	if !decode(bits[:], text) {
		return id{}, errors.New("an id is not 128 bits in base64url")
	}
	return id([]byte(text)), nil
}

func parseDigest(text string) (digest, error) {
	var bits digest
	if !decode(bits[:], text) {
		return bits, errors.New("a digest is not 256 bits in base64url")
	}
	return bits, nil
}

// decode decodes what has exactly one spelling: what is shorter, also by the CR and
// LF that encoding/base64 skips, is refused.
func decode(bits []byte, text string) bool {
	var buf [43]byte
	if len(text) != base64url.EncodedLen(len(bits)) {
		return false
	}
	n, err := base64url.Decode(bits, buf[:copy(buf[:], text)])
	return err == nil && n == len(bits)
}
