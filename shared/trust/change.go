package trust

import (
	"errors"
	"maps"
	"strings"

	"github.com/handoff-auth/handoff/shared/strictjson"
)

// change is what entries differ by from others. It needs no signature: what it
// makes of those others must have the digest that the statement names.
type change struct {
	from    digest
	added   *entries // with their new cut-offs; all is the new one
	removed *removed
}

type removed struct {
	tokens, sessions map[id]struct{}
	subjects         map[digest]struct{}
	live             map[id]struct{} // nil where the new entries list no visits
}

// difference returns what turns one into the other.
func difference(from digest, before, after *entries) *change {
	c := &change{from: from, added: newEntries(), removed: &removed{tokens: map[id]struct{}{}, sessions: map[id]struct{}{}, subjects: map[digest]struct{}{}}}
	c.added.all = after.all
	apart(before.tokens, after.tokens, c.added.tokens, c.removed.tokens)
	apart(before.sessions, after.sessions, c.added.sessions, c.removed.sessions)
	apart(before.subjects, after.subjects, c.added.subjects, c.removed.subjects)
	if after.live != nil {
		c.added.live, c.removed.live = map[id]struct{}{}, map[id]struct{}{}
		apart(before.live, after.live, c.added.live, c.removed.live)
	}
	return c
}

func apart[K, V comparable](before, after, added map[K]V, removed map[K]struct{}) {
	for k, v := range after {
		if was, there := before[k]; !there || was != v {
			added[k] = v
		}
	}
	for k := range before {
		if _, there := after[k]; !there {
			removed[k] = struct{}{}
		}
	}
}

// apply returns the entries after the change. It leaves those before as they are.
func (c *change) apply(before *entries) *entries {
	after := &entries{
		all:      c.added.all,
		tokens:   turned(before.tokens, c.added.tokens, c.removed.tokens),
		sessions: turned(before.sessions, c.added.sessions, c.removed.sessions),
		subjects: turned(before.subjects, c.added.subjects, c.removed.subjects),
	}
	switch {
	case c.added.live == nil:
	case before.live == nil:
		after.live = c.added.live
	default:
		after.live = turned(before.live, c.added.live, c.removed.live)
	}
	return after
}

func turned[K comparable, V any](before, added map[K]V, removed map[K]struct{}) map[K]V {
	after := maps.Clone(before)
	for k := range removed {
		delete(after, k)
	}
	maps.Copy(after, added)
	return after
}

// beginsChange is how the spelling of a change begins, and of entries does not.
const beginsChange = `{"from":"`

func (c *change) encode() []byte {
	b := append([]byte(beginsChange), base64url.EncodeToString(c.from[:])...)
	b = append(append(b, `","added":`...), c.added.encode()...)
	b = appendIDs(append(b, `,"removed":{"tokens":`...), c.removed.tokens)
	b = appendIDs(append(b, `,"sessions":`...), c.removed.sessions)
	b = append(b, `,"subjects":[`...)
	for i, subject := range sortedDigests(c.removed.subjects) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(base64url.AppendEncode(append(b, '"'), subject[:]), '"')
	}
	b = append(b, ']')
	if c.removed.live != nil {
		b = appendIDs(append(b, `,"live":`...), c.removed.live)
	}
	return append(b, "}}"...)
}

// decodeChange decodes what encode makes, and nothing else.
func decodeChange(text string) (*change, error) {
	c := &change{}
	err := strictjson.Read(text, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "from":
				c.from, err = readDigest(r)
			case "added":
				c.added = &entries{}
				err = c.added.read(r)
			case "removed":
				c.removed = &removed{}
				err = c.removed.read(r)
			default:
				err = errMember
			}
			return err
		})
	})
	switch {
	case err != nil:
		return nil, err
	case c.added == nil || c.removed == nil || (c.added.live == nil) != (c.removed.live == nil) || string(c.encode()) != text:
		return nil, errSpelling
	}
	return c, nil
}

func (d *removed) read(r *strictjson.Reader) error {
	err := r.Object(func(name string) (err error) {
		switch name {
		case "tokens":
			d.tokens, err = readIDs(r)
		case "sessions":
			d.sessions, err = readIDs(r)
		case "subjects":
			d.subjects = map[digest]struct{}{}
			err = r.Array(func(int) error {
				subject, err := readDigest(r)
				d.subjects[subject] = struct{}{}
				return err
			})
		case "live":
			d.live, err = readIDs(r)
		default:
			err = errMember
		}
		return err
	})
	if err == nil && (d.tokens == nil || d.sessions == nil || d.subjects == nil) {
		err = errSpelling
	}
	return err
}

// become returns the entries that a text stands for: they themselves, or what they
// differ by from those that one has. Only those with the digest will do.
func become(text string, want digest, have *list) (*entries, error) {
	var e *entries
	if strings.HasPrefix(text, beginsChange) {
		c, err := decodeChange(text)
		switch {
		case err != nil:
			return nil, err
		case have == nil || have.digest != c.from:
			return nil, errors.New("the change is of other entries")
		}
		e = c.apply(have.entries)
		if hash(e.encode()) != want {
			return nil, errOtherEntries
		}
		return e, nil
	}
	if hash([]byte(text)) != want { // before anything of it is read
		return nil, errOtherEntries
	}
	return decodeEntries(text)
}

var errOtherEntries = errors.New("the entries do not have the digest that the statement names")
