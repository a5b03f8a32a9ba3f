package trust

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// Bounds of the entries.
const (
	maxText    = 32 << 20 // bytes of the entries that a follower reads
	maxEntries = 500_000  // that a publisher lists one by one: 29 MB at most
)

// MaxVisits is how many visits a trust list names as standing, 2.5 MB of entries. Of
// more, those stand that expire last.
const MaxVisits = 100_000

// entries are what an issuer has taken back. Once they are made they do not
// change.
type entries struct {
	all              int64 // every token with an iat at or before it, Unix seconds; zero: none
	tokens, sessions map[id]struct{}
	subjects         map[digest]int64 // -> the cut-off, Unix seconds
	live             map[id]struct{}  // the visits that stand; nil: all that are not taken back
}

func newEntries() *entries {
	return &entries{tokens: map[id]struct{}{}, sessions: map[id]struct{}{}, subjects: map[digest]int64{}}
}

func (e *entries) len() int {
	n := len(e.tokens) + len(e.sessions) + len(e.subjects)
	if e.all > 0 {
		n++
	}
	return n
}

// revoked reports whether the entries take back the token with these claims. It
// does not allocate. A token that has an id which no entry can name does not
// stand.
func (e *entries) revoked(c *handoff.Claims) bool {
	if len(c.ID) != len(id{}) || c.Session != "" && len(c.Session) != len(id{}) || e.all > 0 && c.IssuedAt.Unix() <= e.all {
		return true
	}
	if _, listed := e.tokens[id([]byte(c.ID))]; listed {
		return true
	}
	if c.Session != "" {
		if _, listed := e.sessions[id([]byte(c.Session))]; listed {
			return true
		}
	}
	if len(e.subjects) > 0 {
		cutoff, listed := e.subjects[subjectDigest(c.Issuer, c.Subject)]
		return listed && c.IssuedAt.Unix() <= cutoff
	}
	return false
}

// lists reports whether the entries let the visit with these claims stand, which
// they do not take back.
func (e *entries) lists(c *handoff.Claims) bool {
	if e.live == nil || c.Kind() != handoff.KindVisit {
		return true
	}
	_, listed := e.live[id([]byte(c.ID))]
	return listed
}

// folding is what a publisher states with one cut-off for every subject, where there
// is too much to list one by one: nothing that was taken back stands for that.
type folding struct {
	covered map[folded]struct{}
	cutoff  int64 // at or after the iat of every token that they touch
}

// draft is what a publisher has made of its store's entries, to be used again where
// nothing has changed.
type draft struct {
	folding
	live    map[folded]struct{} // those that are not over
	visits  map[id]struct{}     // those that stand; nil: they are not listed
	entries *entries
	text    []byte
	digest  digest
}

// take makes the draft that of these entries.
func (d *draft) take(s State, now time.Time) error {
	all := s.Revoked
	visits, err := standing(s, now)
	if err != nil {
		return err
	}
	if d.entries != nil && d.isOf(all, now) && sameVisits(d.visits, visits) {
		return nil
	}
	made := newEntries()
	made.live = visits
	listed, cutoff := d.fold(all, now, maxEntries)
	made.all = cutoff
	for i, e := range listed {
		if err := made.add(e); err != nil {
			return fmt.Errorf("entry %d of the state: %w", i, err)
		}
	}
	d.live = make(map[folded]struct{}, len(all))
	for _, e := range all {
		if now.Before(e.Until) {
			d.live[e.folded()] = struct{}{}
		}
	}
	d.visits = visits
	d.entries, d.text = made, made.encode()
	d.digest = hash(d.text)
	return nil
}

// standing returns the visits that the list of s names as standing: of too many those
// that end last. Nil: it names none, and each stands that is not taken back.
func standing(s State, now time.Time) (map[id]struct{}, error) {
	if !s.VisitsListed {
		return nil, nil
	}
	visits := s.Visits
	if len(visits) > MaxVisits {
		visits = slices.SortedFunc(slices.Values(visits), func(a, b Visit) int { return b.Expires.Compare(a.Expires) })[:MaxVisits]
	}
	live := make(map[id]struct{}, len(visits))
	for i, visit := range visits {
		if !now.Before(visit.Expires) {
			continue
		}
		text, err := parseID(visit.ID)
		if err != nil {
			return nil, fmt.Errorf("visit %d of the state: %w", i, err)
		}
		live[text] = struct{}{}
	}
	return live, nil
}

func sameVisits(a, b map[id]struct{}) bool { return (a == nil) == (b == nil) && maps.Equal(a, b) }

// isOf reports whether the entries that are not over are those of the draft, in
// any order.
func (d *draft) isOf(all []Entry, now time.Time) bool {
	n := 0
	for _, e := range all {
		if !now.Before(e.Until) {
			continue
		}
		if _, known := d.live[e.folded()]; !known {
			return false
		}
		n++
	}
	return n == len(d.live)
}

type folded struct {
	kind   Kind
	id     string
	cutoff int64
}

func (e Entry) folded() folded { return folded{e.Kind, e.ID, e.Cutoff.Unix()} }

// fold returns the entries that are listed, at most so many, and the cut-off that
// stands for the others; zero: there are none. It moves only when more must be
// folded, then by half of what can be listed: a token that is issued after it stands.
func (f *folding) fold(all []Entry, now time.Time, most int) ([]Entry, int64) {
	kept := map[folded]struct{}{}
	listed := make([]Entry, 0, min(len(all), most))
	for _, e := range all {
		if !now.Before(e.Until) {
			continue
		}
		if _, covered := f.covered[e.folded()]; covered {
			kept[e.folded()] = struct{}{}
		} else {
			listed = append(listed, e)
		}
	}
	if len(listed) > most {
		slices.SortFunc(listed, func(a, b Entry) int { return a.Until.Compare(b.Until) })
		n := len(listed) - most/2
		f.cutoff = max(f.cutoff, now.Unix()) // what is taken back has been issued
		for _, e := range listed[:n] {
			kept[e.folded()] = struct{}{}
			f.cutoff = max(f.cutoff, e.Cutoff.Unix())
		}
		listed = listed[n:]
	}
	if f.covered = kept; len(kept) == 0 {
		f.cutoff = 0
	}
	return listed, f.cutoff
}

// add adds an entry of the issuer's store.
func (e *entries) add(entry Entry) error {
	switch entry.Kind {
	case KindToken, KindSession:
		text, err := parseID(entry.ID)
		if err != nil {
			return err
		}
		if entry.Kind == KindToken {
			e.tokens[text] = struct{}{}
		} else {
			e.sessions[text] = struct{}{}
		}
	case KindSubject:
		subject, err := parseDigest(entry.ID)
		if err != nil {
			return err
		}
		cutoff := entry.Cutoff.Unix()
		if cutoff <= 0 || cutoff > maxTime {
			return errors.New("the cut-off is not a time")
		}
		e.subjects[subject] = max(cutoff, e.subjects[subject])
	default:
		return errors.New("the kind is not token, session or subject")
	}
	return nil
}

// encode returns the entries in their one spelling (SPEC.md section 3), whose
// SHA-256 the statement names.
func (e *entries) encode() []byte {
	b := make([]byte, 0, 64+25*(len(e.tokens)+len(e.sessions)+len(e.live))+57*len(e.subjects))
	b = append(b, '{')
	if e.all > 0 {
		b = append(strconv.AppendInt(append(b, `"all":`...), e.all, 10), ',')
	}
	b = appendIDs(append(b, `"tokens":`...), e.tokens)
	b = appendIDs(append(b, `,"sessions":`...), e.sessions)
	b = append(b, `,"subjects":{`...)
	for i, subject := range sortedDigests(e.subjects) {
		if i > 0 {
			b = append(b, ',')
		}
		b = base64url.AppendEncode(append(b, '"'), subject[:])
		b = strconv.AppendInt(append(b, `":`...), e.subjects[subject], 10)
	}
	b = append(b, '}')
	if e.live != nil {
		b = appendIDs(append(b, `,"live":`...), e.live)
	}
	return append(b, '}')
}

func appendIDs(b []byte, set map[id]struct{}) []byte {
	b = append(b, '[')
	for i, text := range slices.SortedFunc(maps.Keys(set), func(a, b id) int { return bytes.Compare(a[:], b[:]) }) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), text[:]...), '"')
	}
	return append(b, ']')
}

func sortedDigests[V any](m map[digest]V) []digest {
	return slices.SortedFunc(maps.Keys(m), func(a, b digest) int { return bytes.Compare(a[:], b[:]) })
}

// hash returns the digest of entries in their spelling.
func hash(text []byte) digest { return sha256.Sum256(text) }

var errSpelling = errors.New("the entries are not in their one spelling")

// decodeEntries decodes what encode makes, and nothing else. The error is fixed
// text.
func decodeEntries(text string) (*entries, error) {
	e := &entries{}
	if err := strictjson.Read(text, e.read); err != nil {
		return nil, err
	}
	if string(e.encode()) != text {
		return nil, errSpelling
	}
	return e, nil
}

func (e *entries) read(r *strictjson.Reader) error {
	err := r.Object(func(name string) (err error) {
		switch name {
		case "all":
			var cutoff time.Time
			cutoff, err = r.Time(time.Second)
			e.all = cutoff.Unix()
		case "tokens":
			e.tokens, err = readIDs(r)
		case "sessions":
			e.sessions, err = readIDs(r)
		case "subjects":
			e.subjects, err = readSubjects(r)
		case "live":
			e.live, err = readIDs(r)
		default:
			err = errMember
		}
		return err
	})
	if err == nil && (e.tokens == nil || e.sessions == nil || e.subjects == nil) {
		err = errors.New("the entries are not tokens, sessions and subjects")
	}
	return err
}

func readIDs(r *strictjson.Reader) (map[id]struct{}, error) {
	set := map[id]struct{}{}
	return set, r.Array(func(int) error {
		text, err := r.String()
		if err != nil {
			return err
		}
		id, err := parseID(text)
		if err != nil {
			return err
		}
		if _, twice := set[id]; twice {
			return errors.New("an id is listed twice")
		}
		set[id] = struct{}{}
		return nil
	})
}

func readSubjects(r *strictjson.Reader) (map[digest]int64, error) {
	subjects := map[digest]int64{}
	return subjects, r.Object(func(text string) error {
		subject, err := parseDigest(text)
		if err != nil {
			return err
		}
		cutoff, err := r.Time(time.Second)
		if err != nil {
			return err
		}
		subjects[subject] = cutoff.Unix()
		return nil
	})
}
