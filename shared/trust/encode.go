package trust

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// State is what an issuer's store knows at one moment: all of it.
type State struct {
	// Keys are those that may sign handoff tokens now, those that soon will, and
	// those whose last tokens are still alive: rotation.Ring.Listed. At least one,
	// at most 64, and none of them a trust key.
	Keys []handoff.Key
	// Revoked is what has been taken back. What is over may be among it, and the
	// same thing twice.
	Revoked []Entry
	// VisitsListed says that Visits are all visits that stand: another is refused,
	// though a key of the issuer's has signed it, and one that has just been issued
	// until a list names it: see Publisher.Published. Otherwise a visit stands that is
	// not taken back.
	VisitsListed bool
	// Visits are those that were issued. What is over may be among them. Of more than
	// 100,000 those are listed that expire last.
	Visits []Visit
}

// Visit is one visit that was issued.
type Visit struct {
	ID      string    // its jti
	Expires time.Time // its exp
}

// newList makes the list that states s at now. A state with anything in it that
// cannot be listed makes none: to leave it out would be to un-revoke it.
func newList(terms Terms, s State, seq int64, now time.Time, d *draft) (*list, error) {
	if len(s.Keys) == 0 || len(s.Keys) > MaxKeys {
		return nil, fmt.Errorf("the state has %d keys: a list has 1 to %d", len(s.Keys), MaxKeys)
	}
	if err := d.take(s, now); err != nil {
		return nil, err
	}
	l := &list{issuer: terms.Issuer, issuedAt: now.UTC().Truncate(time.Second), seq: seq, keys: s.Keys, entries: d.entries, digest: d.digest}
	l.expires = l.issuedAt.Add(terms.ListLifetime)
	return l, nil
}

// encode returns the statement's payload: what decodeList reads.
func (l *list) encode() ([]byte, error) {
	keys, err := jwks(l.keys)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 512+len(keys))
	b = append(b, `{"iss":"`+l.issuer+`","iat":`...) // a name needs no quoting
	b = strconv.AppendInt(b, l.issuedAt.Unix(), 10)
	b = strconv.AppendInt(append(b, `,"exp":`...), l.expires.Unix(), 10)
	b = strconv.AppendInt(append(b, `,"seq":`...), l.seq, 10)
	b = append(append(b, `,"keys":`...), keys...)
	b = base64url.AppendEncode(append(b, `,"revoked_sha256":"`...), l.digest[:])
	return append(b, `"}`...), nil
}

// jwks returns the `keys` member of the keys' JWK Set (RFC 7517 section 5.1).
func jwks(keys []handoff.Key) ([]byte, error) {
	set, err := keyset.New(keys...)
	if err != nil {
		return nil, err
	}
	text, err := set.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var members struct {
		Keys json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	return members.Keys, nil
}
