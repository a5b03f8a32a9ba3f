package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
}

// newList makes the list that states s at now. A state with anything in it that
// cannot be listed makes none: to leave it out would be to un-revoke it.
func newList(terms Terms, s State, seq int64, now time.Time) (*list, error) {
	l := &list{
		issuer: terms.Issuer, issuedAt: now.UTC().Truncate(time.Second), seq: seq, keys: s.Keys,
		tokens: map[id]struct{}{}, sessions: map[id]struct{}{}, subjects: map[digest]int64{},
	}
	l.expires = l.issuedAt.Add(terms.ListLifetime)
	if len(s.Keys) == 0 || len(s.Keys) > MaxKeys {
		return nil, fmt.Errorf("the state has %d keys: a list has 1 to %d", len(s.Keys), MaxKeys)
	}
	for i, e := range s.Revoked {
		if !now.Before(e.Until) {
			continue
		}
		if err := l.add(e); err != nil {
			return nil, fmt.Errorf("entry %d of the state: %w", i, err)
		}
	}
	return l, nil
}

func (l *list) add(e Entry) error {
	switch e.Kind {
	case KindToken, KindSession:
		text, err := parseID(e.ID)
		if err != nil {
			return err
		}
		if e.Kind == KindToken {
			l.tokens[text] = struct{}{}
		} else {
			l.sessions[text] = struct{}{}
		}
	case KindSubject:
		subject, err := parseDigest(e.ID)
		if err != nil {
			return err
		}
		cutoff := e.Cutoff.Unix()
		if cutoff <= 0 || cutoff > maxTime {
			return errors.New("the cut-off is not a time")
		}
		l.subjects[subject] = max(cutoff, l.subjects[subject])
	default:
		return errors.New("the kind is not token, session or subject")
	}
	return nil
}

// encode returns the payload: what decodeList reads. Ids and digests are sorted, so
// that one list has one spelling.
func (l *list) encode() ([]byte, error) {
	keys, err := jwks(l.keys)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 512+len(keys)+25*(len(l.tokens)+len(l.sessions))+57*len(l.subjects))
	b = append(b, `{"iss":"`+l.issuer+`","iat":`...) // a name needs no quoting
	b = strconv.AppendInt(b, l.issuedAt.Unix(), 10)
	b = strconv.AppendInt(append(b, `,"exp":`...), l.expires.Unix(), 10)
	b = strconv.AppendInt(append(b, `,"seq":`...), l.seq, 10)
	b = append(append(b, `,"keys":`...), keys...)
	b = appendIDs(append(b, `,"revoked":{"tokens":`...), l.tokens)
	b = appendIDs(append(b, `,"sessions":`...), l.sessions)
	b = append(b, `,"subjects":{`...)
	for i, subject := range sorted(l.subjects, func(a, b digest) int { return bytes.Compare(a[:], b[:]) }) {
		if i > 0 {
			b = append(b, ',')
		}
		b = base64url.AppendEncode(append(b, '"'), subject[:])
		b = strconv.AppendInt(append(b, `":`...), l.subjects[subject], 10)
	}
	return append(b, "}}}"...), nil
}

func appendIDs(b []byte, set map[id]struct{}) []byte {
	b = append(b, '[')
	for i, text := range sorted(set, func(a, b id) int { return bytes.Compare(a[:], b[:]) }) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), text[:]...), '"')
	}
	return append(b, ']')
}

func sorted[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
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
