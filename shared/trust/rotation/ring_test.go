package rotation

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/trust"
)

var (
	terms = trust.Terms{Issuer: "https://shop.example"} // 300 s, 60 s, 5 s
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
	r := must(Ring{}.Prepare(one, now))
	if _, ok := r.Signing(); ok {
		t.Error("a next key signs")
	}
	r = must(r.Activate(one.ID(), now, terms)) // there is nothing to break
	r = must(r.Prepare(two, now.Add(time.Hour)))
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
	if kid, _ := r.Signing(); kid != two.ID() || states(r) != "active active" {
		t.Errorf("%s signs, %s", kid, states(r))
	}

	if _, err := r.Retire(two.ID(), now, terms); !errors.Is(err, ErrLast) {
		t.Errorf("the signing key is retired: %v", err)
	}
	r = must(r.Retire(one.ID(), now, terms))
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
	r := must(must(Ring{}.Prepare(one, start)).Activate(one.ID(), start, terms))
	before := r
	if after, err := r.Taint(one.ID(), start); !errors.Is(err, ErrLast) || states(after) != "active" {
		t.Errorf("the last key is tainted: %v, %s", err, states(after))
	}
	r = must(r.Prepare(two, start))
	r = must(r.Prepare(three, start.Add(time.Second)))
	r = must(r.Taint(one.ID(), start.Add(2*time.Second)))
	if kid, _ := r.Signing(); kid != two.ID() || states(r) != "tainted active next" {
		t.Errorf("%s signs, %s", kid, states(r))
	}
	if listed := r.Listed(start); len(listed) != 2 || listed[0].ID() != two.ID() {
		t.Errorf("%d listed", len(listed))
	}
	if _, err := r.Prepare(one, start); !errors.Is(err, ErrKnown) {
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
	r = must(must(before.Prepare(two, start)).Activate(two.ID(), start.Add(time.Hour), terms))
	r = must(r.Taint(two.ID(), start.Add(time.Hour)))
	if kid, _ := r.Signing(); kid != one.ID() {
		t.Errorf("%s signs", kid)
	}
}

func TestStepsRefuse(t *testing.T) {
	must := must(t)
	one, two := newKey(), newKey()
	now := start.Add(time.Hour)
	next := must(Ring{}.Prepare(one, start))
	active := must(must(next.Activate(one.ID(), start, terms)).Prepare(two, start))
	both := must(active.Activate(two.ID(), now, terms))
	retired := must(both.Retire(one.ID(), now, terms))
	tainted := must(both.Taint(one.ID(), now))
	for name, test := range map[string]struct {
		err  error
		want error
	}{
		"prepare twice":             {step(next.Prepare(one, now)), ErrKnown},
		"activate an unknown key":   {step(next.Activate(two.ID(), now, terms)), ErrUnknown},
		"activate an active key":    {step(both.Activate(one.ID(), now, terms)), ErrState},
		"activate a retired key":    {step(retired.Activate(one.ID(), now, terms)), ErrState},
		"activate a tainted key":    {step(tainted.Activate(one.ID(), now, terms)), ErrState},
		"retire an unknown key":     {step(next.Retire(two.ID(), now, terms)), ErrUnknown},
		"retire a next key":         {step(active.Retire(two.ID(), now, terms)), ErrState},
		"retire the only key":       {step(active.Retire(one.ID(), now, terms)), ErrLast},
		"retire a retired key":      {step(retired.Retire(one.ID(), now, terms)), ErrState},
		"retire a tainted key":      {step(tainted.Retire(one.ID(), now, terms)), ErrState},
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
	if _, err := (Ring{}).Prepare(handoff.Key{}, now); err == nil {
		t.Error("the zero key is prepared")
	}
}

func step(_ Ring, err error) error { return err }

func TestJSON(t *testing.T) {
	must := must(t)
	one, two, three, four := newKey(), newKey(), newKey(), newKey()
	now := start.Add(time.Hour)
	r := must(must(Ring{}.Prepare(one, start)).Activate(one.ID(), start, terms))
	r = must(must(r.Prepare(two, start)).Activate(two.ID(), now, terms))
	r = must(must(r.Retire(one.ID(), now, terms)).Prepare(three, now))
	r = must(must(r.Prepare(four, now)).Taint(four.ID(), now))
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
	key, err := json.Marshal(must(t)(Ring{}.Prepare(newKey(), start)))
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
	for range 40 {
		due := r.Due(every, terms)
		if due.At.After(now) {
			now = due.At
		}
		switch due.Verb {
		case DuePrepare:
			r = must(r.Prepare(newKey(), now))
		case DueActivate:
			r = must(r.Activate(due.Kid, now, terms))
			signed = append(signed, now)
		case DueRetire:
			r = must(r.Retire(due.Kid, now, terms))
		default:
			t.Fatalf("%+v", due)
		}
		r = r.Prune(now)
		if n := len(r.Records()); n > 3 {
			t.Errorf("%d keys", n)
		}
	}
	if len(signed) < 12 {
		t.Errorf("%d keys in 40 steps", len(signed))
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
	r = must(r.Prepare(newKey(), signing.Activated.Add(every)))
	for due := r.Due(time.Second, terms); due.Verb != DueActivate; due = r.Due(time.Second, terms) {
		r = must(r.Retire(due.Kid, due.At, terms))
	}
	if due := r.Due(time.Second, terms); !due.At.Equal(signing.Activated.Add(every + terms.Before())) {
		t.Errorf("due at %s", due.At)
	}
}

// A world of processes whose clocks differ by up to the skew, publishers that
// fail, audiences that hear late, and steps taken as soon as they are allowed:
// whoever relies on a list finds in it the key of every token that is alive.
func TestNoTokenMeetsAnUnknownKey(t *testing.T) {
	pool := make([]handoff.Key, 100)
	for i := range pool {
		pool[i] = newKey()
	}
	var total world
	for seed := range uint64(100) {
		w := world{rand: rand.New(rand.NewPCG(seed, 0)), fresh: pool}
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.checked += w.checked
		total.activated += w.activated
	}
	if total.checked < 10_000 || total.activated < 500 {
		t.Errorf("only %d checks and %d activations", total.checked, total.activated)
	}
}

type world struct {
	rand      *rand.Rand
	fresh     []handoff.Key
	ring      Ring
	checked   int
	activated int
}

func (w *world) run() error {
	const tick = 100 * time.Millisecond
	seconds := func() time.Duration { return time.Duration(1+w.rand.IntN(3)) * time.Second }
	terms := trust.Terms{Issuer: "https://shop.example", TokenLifetime: seconds(), ListLifetime: seconds(), Skew: time.Second}
	// Every clock runs half a skew fast or slow: no two differ by more than one.
	clock := func() time.Duration { return []time.Duration{-terms.Skew / 2, terms.Skew / 2}[w.rand.IntN(2)] }
	publisher, signer, audience := clock(), clock(), clock()
	often := []int{2, 10, 40}[w.rand.IntN(3)] // the audience hears of one list in so many
	var history []Ring                        // at each tick
	var published, followed struct {
		keys []handoff.Key
		exp  time.Time
	}
	alive := map[string]time.Time{} // the latest exp of what each key has signed
	for i := range 400 {
		now := start.Add(time.Duration(i) * tick)
		w.steps(now.Add(clock()), terms)
		history = append(history, w.ring)
		if keys := w.ring.Listed(now.Add(publisher)); len(keys) > 0 && w.rand.IntN(2) == 0 {
			published.keys, published.exp = keys, now.Add(publisher).Truncate(time.Second).Add(terms.ListLifetime)
		}
		if w.rand.IntN(often) == 0 {
			followed = published
		}
		late := w.rand.IntN(2) * int(terms.Lag()/tick)
		if kid, ok := history[max(0, i-late)].Signing(); ok {
			alive[kid] = now.Add(signer).Truncate(time.Second).Add(terms.TokenLifetime)
		}
		if !now.Add(audience).Before(followed.exp) {
			continue // relies on no list, and refuses everything
		}
		for kid, exp := range alive {
			if !now.Add(audience).Before(exp) {
				continue
			}
			w.checked++
			if !slices.ContainsFunc(followed.keys, func(k handoff.Key) bool { return k.ID() == kid }) {
				return fmt.Errorf("at tick %d a living token's key is not in the list", i)
			}
		}
	}
	return nil
}

// steps takes every step that is allowed, and prepares a key now and then.
func (w *world) steps(now time.Time, terms trust.Terms) {
	if len(w.ring.Listed(now)) < 5 && w.rand.IntN(5) == 0 {
		w.ring, _ = w.ring.Prepare(w.fresh[0], now)
		w.fresh = w.fresh[1:]
	}
	w.ring = w.ring.Prune(now)
	for _, k := range w.ring.Records() {
		if next, err := w.ring.Activate(k.Key.ID(), now, terms); err == nil {
			w.ring = next
			w.activated++
		} else if next, err := w.ring.Retire(k.Key.ID(), now, terms); err == nil {
			w.ring = next
		}
	}
}
