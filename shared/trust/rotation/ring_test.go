package rotation

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/trust"
)

var (
	terms = trust.Terms{Issuer: "https://shop.example", TokenLifetime: handoff.MaxLifetime} // 300 s, 60 s, 5 s
	start = time.Unix(1_800_000_000, 0).UTC()
)

func newKey() handoff.Key { return forge.NewKey(handoff.EdDSA).Public }

func must(t *testing.T) func(Ring, error) Ring {
	return func(r Ring, err error) Ring {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// prepare prepares a key, and settles the ring as its keeper does.
func prepare(r Ring, key handoff.Key, now time.Time) (Ring, error) {
	r, err := r.Prepare(key)
	return r.Settle(now, terms), err
}

func retire(r Ring, kid string, now time.Time) (Ring, error) {
	r, err := r.Retire(kid, now, terms)
	return r.Settle(now, terms), err
}

func states(r Ring) string {
	var all []string
	for _, k := range r.Records() {
		all = append(all, string(k.State))
	}
	return strings.Join(all, " ")
}

// early fails the test unless err is an EarlyError with this wait.
func early(t *testing.T, err error, want time.Duration) {
	t.Helper()
	var e *EarlyError
	if !errors.As(err, &e) || e.Wait != want {
		t.Errorf("err = %v, want to wait %s", err, want)
	}
}

// F06, F07: a key is listed before it signs, and after.
func TestF06ALife(t *testing.T) {
	must := must(t)
	one, two := newKey(), newKey()
	now := start
	r := must(prepare(Ring{}, one, now))
	if _, ok := r.Signing(); ok {
		t.Error("a next key signs")
	}
	r = must(r.Activate(one.ID(), now, terms)) // there is nothing to break
	r = must(prepare(r, two, now.Add(time.Hour)))
	now = now.Add(time.Hour)
	if kid, _ := r.Signing(); kid != one.ID() || len(r.Listed(now)) != 2 {
		t.Errorf("%s signs, %d listed", kid, len(r.Listed(now)))
	}

	_, err := r.Activate(two.ID(), now, terms)
	early(t, err, 70*time.Second)
	now = now.Add(70*time.Second - time.Millisecond)
	_, err = r.Activate(two.ID(), now, terms)
	early(t, err, time.Millisecond)
	now = now.Add(time.Millisecond)
	r = must(r.Activate(two.ID(), now, terms))
	for i, want := range []string{"former", "active, signs"} {
		if got := r.Shown(r.Records()[i]); got != want {
			t.Errorf("key %d is called %q, want %q", i, got, want)
		}
	}
	if kid, _ := r.Signing(); kid != two.ID() || states(r) != "active active" {
		t.Errorf("%s signs, %s", kid, states(r))
	}

	if _, err := retire(r, two.ID(), now); !errors.Is(err, ErrSigns) {
		t.Errorf("the signing key is retired: %v", err)
	}
	_, err = retire(r, one.ID(), now)
	early(t, err, terms.Lag()) // a process may still sign with it
	now = now.Add(terms.Lag())
	r = must(retire(r, one.ID(), now))
	last := now.Add(315*time.Second - time.Millisecond)
	if r.Prune(last).Records()[0].State != Retired || len(r.Listed(last)) != 2 {
		t.Error("a retired key goes too early")
	}
	gone := last.Add(time.Millisecond)
	if len(r.Listed(gone)) != 1 || states(r.Prune(gone)) != "active" {
		t.Error("a retired key stays")
	}
}

func TestF07TaintIsImmediate(t *testing.T) {
	must := must(t)
	one, two, three := newKey(), newKey(), newKey()
	r := must(must(prepare(Ring{}, one, start)).Activate(one.ID(), start, terms))
	before := r
	if after, err := r.Taint(one.ID(), start); !errors.Is(err, ErrLast) || states(after) != "active" {
		t.Errorf("the last key is tainted: %v, %s", err, states(after))
	}
	r = must(prepare(r, two, start))
	r = must(prepare(r, three, start.Add(time.Second)))
	r = must(r.Taint(one.ID(), start.Add(2*time.Second)))
	if kid, _ := r.Signing(); kid != two.ID() || states(r) != "tainted active next" {
		t.Errorf("%s signs, %s", kid, states(r))
	}
	if listed := r.Listed(start); len(listed) != 2 || listed[0].ID() != two.ID() {
		t.Errorf("%d listed", len(listed))
	}
	if _, err := r.Prepare(one); !errors.Is(err, ErrKnown) {
		t.Errorf("a tainted key comes back: %v", err)
	}
	r = must(r.Taint(three.ID(), start)) // one that never signed
	if states(r) != "tainted active tainted" || states(r.Prune(start.Add(time.Hour))) != states(r) {
		t.Errorf("%s", states(r))
	}
	if states(before) != "active" {
		t.Error("a step changed the ring that it was taken from")
	}

	// While the former key is still active, it signs again.
	r = must(must(prepare(before, two, start)).Activate(two.ID(), start.Add(time.Hour), terms))
	r = must(r.Taint(two.ID(), start.Add(time.Hour)))
	if kid, _ := r.Signing(); kid != one.ID() {
		t.Errorf("%s signs", kid)
	}
}

// What a step leaves open is on the safe side until the ring is settled: a key that
// was prepared waits, however long ago that was, and a retired one stays listed.
func TestF06F07Open(t *testing.T) {
	must := must(t)
	one, two := newKey(), newKey()
	year := start.Add(365 * 24 * time.Hour)
	r := must(must(Ring{}.Prepare(one)).Activate(one.ID(), start, terms))
	if !r.Settled() {
		t.Error("a first key that signs leaves something open")
	}
	open := must(r.Prepare(two))
	if _, err := open.Activate(two.ID(), year, terms); open.Settled() || len(open.Listed(year)) != 2 {
		t.Error("a prepared key is not listed, or is settled")
	} else {
		early(t, err, 70*time.Second)
	}
	r = open.Settle(year, terms)
	if !r.Settled() || open.Settled() || states(r.Settle(year.Add(time.Hour), terms)) != states(r) {
		t.Error("settling does not settle one ring, once")
	}
	year = year.Add(70 * time.Second)
	r = must(r.Settle(year, terms).Activate(two.ID(), year, terms)) // the first time counts
	year = year.Add(terms.Lag())
	open = must(r.Retire(one.ID(), year, terms))
	later := year.Add(365 * 24 * time.Hour)
	if open.Settled() || len(open.Listed(later)) != 2 || states(open.Prune(later)) != "retired active" {
		t.Error("a retired key goes, although nobody knows since when")
	}
	r = open.Settle(year, terms)
	if gone := year.Add(315 * time.Second); len(r.Listed(gone.Add(-1))) != 2 || len(r.Listed(gone)) != 1 {
		t.Error("a retired key does not leave in its time")
	}
	text, err := json.Marshal(open)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := Parse(text); err != nil || read.Settled() {
		t.Errorf("an open ring is read as settled, or not: %v", err)
	}
	tainted := must(must(r.Prepare(newKey())).Taint(two.ID(), year)) // and the new key signs
	if !tainted.Settled() {
		t.Error("a key that signs is open")
	}
}

// Times are kept to the millisecond by which they have come, not the one before.
func TestStampIsNotEarly(t *testing.T) {
	r := must(t)(prepare(Ring{}, newKey(), start.Add(time.Nanosecond)))
	if got := r.Records()[0].Prepared; !got.Equal(start.Add(time.Millisecond)) {
		t.Errorf("prepared at %s", got.Sub(start))
	}
}

// The key that was activated last signs, also where a clock that is behind
// activated it, or the same one within a millisecond.
func TestActivatedLastSigns(t *testing.T) {
	must := must(t)
	one, two, three := newKey(), newKey(), newKey()
	r := must(must(Ring{}.Prepare(one)).Activate(one.ID(), start, terms))
	r = must(prepare(must(prepare(r, two, start)), three, start))
	at := start.Add(time.Hour)
	r = must(r.Activate(three.ID(), at, terms))
	for _, behind := range []time.Duration{0, terms.Lag()} {
		last := must(r.Activate(two.ID(), at.Add(-behind), terms))
		if kid, _ := last.Signing(); kid != two.ID() {
			t.Errorf("by a clock %s behind a key is activated that does not sign", behind)
		}
	}
}

func TestStepsRefuse(t *testing.T) {
	must := must(t)
	one, two := newKey(), newKey()
	now := start.Add(time.Hour)
	next := must(prepare(Ring{}, one, start))
	active := must(prepare(must(next.Activate(one.ID(), start, terms)), two, start))
	both := must(active.Activate(two.ID(), now, terms))
	now = now.Add(terms.Lag())
	retired := must(retire(both, one.ID(), now))
	tainted := must(both.Taint(one.ID(), now))
	for name, test := range map[string]struct {
		err  error
		want error
	}{
		"prepare twice":             {step(prepare(next, one, now)), ErrKnown},
		"activate an unknown key":   {step(next.Activate(two.ID(), now, terms)), ErrUnknown},
		"activate an active key":    {step(both.Activate(one.ID(), now, terms)), ErrState},
		"activate a retired key":    {step(retired.Activate(one.ID(), now, terms)), ErrState},
		"activate a tainted key":    {step(tainted.Activate(one.ID(), now, terms)), ErrState},
		"retire an unknown key":     {step(retire(next, two.ID(), now)), ErrUnknown},
		"retire a next key":         {step(retire(active, two.ID(), now)), ErrState},
		"retire the signing key":    {step(retire(active, one.ID(), now)), ErrSigns},
		"retire a retired key":      {step(retire(retired, one.ID(), now)), ErrState},
		"retire a tainted key":      {step(retire(tainted, one.ID(), now)), ErrState},
		"taint an unknown key":      {step(next.Taint(two.ID(), now)), ErrUnknown},
		"taint a tainted key":       {step(tainted.Taint(one.ID(), now)), ErrState},
		"taint what is left":        {step(tainted.Taint(two.ID(), now)), ErrLast},
		"control: taint a next key": {step(next.Taint(one.ID(), now)), nil},
		"control: taint a retired":  {step(retired.Taint(one.ID(), now)), nil},
	} {
		if !errors.Is(test.err, test.want) || test.want == nil && test.err != nil {
			t.Errorf("%s: %v", name, test.err)
		}
	}
	if _, err := (Ring{}).Prepare(handoff.Key{}); err == nil {
		t.Error("the zero key is prepared")
	}
}

func step(_ Ring, err error) error { return err }

func TestJSON(t *testing.T) {
	must := must(t)
	one, two, three, four := newKey(), newKey(), newKey(), newKey()
	now := start.Add(time.Hour)
	r := must(must(prepare(Ring{}, one, start)).Activate(one.ID(), start, terms))
	r = must(must(prepare(r, two, start)).Activate(two.ID(), now, terms))
	now = now.Add(terms.Lag())
	r = must(prepare(must(retire(r, one.ID(), now)), three, now))
	r = must(must(prepare(r, four, now)).Taint(four.ID(), now))
	if states(r) != "retired active next tainted" {
		t.Fatal(states(r))
	}
	for _, r := range []Ring{{}, r} {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		read, err := Parse(text)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		again, err := json.Marshal(read)
		if err != nil || string(again) != string(text) {
			t.Errorf("read\n%s\nwrote\n%s", text, again)
		}
		if len(read.Listed(now)) != len(r.Listed(now)) {
			t.Errorf("%d keys listed, then %d", len(r.Listed(now)), len(read.Listed(now)))
		}
	}
}

func TestParseRefuses(t *testing.T) {
	key, err := json.Marshal(must(t)(prepare(Ring{}, newKey(), start)))
	if err != nil {
		t.Fatal(err)
	}
	good := string(key)
	record := good[len(`{"keys":[`) : len(good)-2]
	jwk := record[strings.Index(record, `"jwk":`)+len(`"jwk":`) : len(record)-1]
	replace := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s has no %s", good, old)
		}
		return strings.Replace(good, old, with, 1)
	}
	if _, err := Parse([]byte(good)); err != nil {
		t.Errorf("control: %v", err)
	}
	if _, err := Parse([]byte(replace(`"state":"next"`, `"state":"active","activated":1800000000000`))); err != nil {
		t.Errorf("control: %v", err)
	}
	for _, text := range []string{
		"", "null", "[]", "{}", `{"keys":null}`, good + good, good[:len(good)-1],
		`{"version":1,` + good[1:],
		`{"keys":[` + record + `,` + record + `]}`,
		`{"keys":[{}]}`,
		replace(`"state":"next",`, ``),
		replace(`"next"`, `"lost"`),
		replace(`"next"`, `""`),
		replace(`"next"`, `null`),
		replace(`"next"`, `"active"`),
		replace(`"next"`, `"retired"`),
		replace(`"next"`, `"tainted"`),
		replace(`"state"`, `"activated":1,"state"`),
		replace(`"state"`, `"until":1,"state"`),
		replace(`"state"`, `"note":1,"state"`),
		replace(`"state":"next"`, `"state":"next","state":"next"`),
		replace(`"prepared":1800000000000`, `"prepared":-1`),
		replace(`"prepared":1800000000000`, `"prepared":"1"`),
		replace(`"prepared":1800000000000`, `"prepared":253402300800000`),
		replace(`,"jwk":`+jwk, ``),
		replace(jwk, `null`),
		replace(jwk, `{"keys":[`+jwk+`]}`),
		replace(jwk, jwk+`,`+jwk),
		replace(jwk, `{"kty":"oct","k":"AAAA"}`),
		replace(`"kty"`, `"d":"AAAA","kty"`),
		strings.Repeat(" ", maxSize) + good,
	} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("accepted: %.300s", text)
		}
	}
}

// Keys that change by the clock: each step is due in its time and succeeds then,
// for as long as one cares to look.
func TestDue(t *testing.T) {
	must := must(t)
	const every = 24 * time.Hour
	now := start
	var r Ring
	var signed []time.Time // when a key was activated
	for range 60 {
		due := r.Due(every, terms)
		if due.At.After(now) {
			now = due.At
		}
		switch due.Verb {
		case DuePrepare:
			r = must(r.Prepare(newKey()))
		case DueActivate:
			r = must(r.Activate(due.Kid, now, terms))
			signed = append(signed, now)
		case DueRetire:
			r = must(r.Retire(due.Kid, now, terms))
		case DueSettle:
			r = r.Settle(now, terms)
		default:
			t.Fatalf("%+v", due)
		}
		r = r.Prune(now)
		if n := len(r.Records()); n > 3 {
			t.Errorf("%d keys", n)
		}
	}
	if len(signed) < 12 {
		t.Errorf("%d keys in 60 steps", len(signed))
	}
	for i := 1; i < len(signed); i++ {
		if gap := signed[i].Sub(signed[i-1]); gap != every {
			t.Errorf("key %d signed for %s", i, gap)
		}
	}
	// Sooner than it may, no key is activated, however often it should change.
	kid, _ := r.Signing()
	signing := r.records[slices.IndexFunc(r.records, func(k Record) bool { return k.Key.ID() == kid })]
	r = must(r.Taint(r.Records()[len(r.Records())-1].Key.ID(), now))
	r = must(prepare(r, newKey(), signing.Activated.Add(every)))
	for due := r.Due(time.Second, terms); due.Verb != DueActivate; due = r.Due(time.Second, terms) {
		r = must(retire(r, due.Kid, due.At))
	}
	if due := r.Due(time.Second, terms); !due.At.Equal(signing.Activated.Add(every + terms.Before())) {
		t.Errorf("due at %s", due.At)
	}
}
