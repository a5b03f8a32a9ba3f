package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// The times of the test: tokens and lists live for two seconds.
const (
	life  = 2 * time.Second
	skew  = 100 * time.Millisecond
	every = 2 * time.Second // a key signs, or as long as its successor must wait
	// over is how long after its successor's first token a retired key is known to
	// nobody: SERVER1 retires it, lists it until its last token is dead, and the last
	// list that names it dies. Three seconds are for a busy SERVER1 to take its steps.
	over = skew + (skew + life + 2*skew) + (life + skew) + 3*time.Second
)

// rotating is a SERVER1 whose keys change, three audiences, the last of which
// reads the trust list through a link, and copies of each key.
type rotating struct {
	*testing.T
	pair *pair.Pair
	link *pair.Link
	bob  *user

	mu     sync.Mutex
	stolen map[string]*signkey.Key // by the key's id
	signed []string                // the ids, in their order
	since  []time.Time             // each of them was first seen
	uses   atomic.Int64
	stale  atomic.Int64 // uses for which a list came too late
	flaps  atomic.Int64
}

func startRotating(t *testing.T) *rotating {
	t.Helper()
	p := trusting(t, pair.Config{
		Audiences: 3, Linked: 1,
		Server1: []string{
			"--rotate-every", every.String(), "--lifetime", life.String(), "--max-lifetime", life.String(),
			"--trust-lifetime", life.String(), "--skew", skew.String(),
		},
		Server2: []string{"--max-staleness", life.String(), "--skew", skew.String()},
	})
	return &rotating{T: t, pair: p, link: p.Links[0], bob: signIn(t, p, "bob"), stolen: map[string]*signkey.Key{}}
}

// issue returns a token, and when it dies. The key that signs it is copied.
func (r *rotating) issue(ctx context.Context) (token string, dies time.Time, err error) {
	issued, err := r.bob.Issue(ctx, r.bob.session, pair.Audience, server2v1.InvoiceService_GetInvoice_FullMethodName, look, life)
	if err != nil {
		return "", dies, err
	}
	id := kid(r.T, issued.GetToken())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stolen[id] == nil {
		if r.stolen[id], err = signkey.Load(filepath.Join(r.pair.KeyDir(), id+".key")); err != nil {
			return "", dies, fmt.Errorf("the key that signs is not there to be copied: %w", err)
		}
		r.signed, r.since = append(r.signed, id), append(r.since, time.Now())
	}
	return issued.GetToken(), issued.GetExpireTime().AsTime(), nil
}

// accepted has all audiences asked, each of which must say yes until the token
// dies, but where its list is too old: this machine is late.
func (r *rotating) accepted(ctx context.Context, token string, dies time.Time) {
	for audience := range r.bob.audiences {
		reason := r.bob.use(ctx, audience, token)
		r.uses.Add(1)
		if reason == handoff.ReasonTrustStale {
			r.stale.Add(1)
			continue
		}
		if reason != 0 && time.Now().Before(dies) && ctx.Err() == nil {
			r.Errorf("audience %d refuses a valid token with %s", audience, reason)
		}
	}
}

// traffic uses tokens, new and about to die, until the context ends.
func (r *rotating) traffic(ctx context.Context) {
	for ctx.Err() == nil {
		token, dies, err := r.issue(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.Error(err)
			}
			return
		}
		r.accepted(ctx, token, dies)
		time.Sleep(time.Duration(rand.Int64N(int64(time.Until(dies)))))
		r.accepted(ctx, token, dies)
	}
}

// flap stalls and cuts the link, for less than its audience can do without a list,
// until the context ends.
func (r *rotating) flap(ctx context.Context) {
	const longest = 150 * time.Millisecond
	for ; ctx.Err() == nil; r.flaps.Add(1) {
		harm := r.link.Stall
		if rand.IntN(2) == 0 {
			harm = r.link.Cut
		}
		harm()
		time.Sleep(time.Duration(rand.Int64N(int64(longest))))
		r.link.Pass()
		time.Sleep(4 * longest)
	}
}

// rotations is how often the key has changed.
func (r *rotating) rotations() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.signed) - 1
}

// former are the keys that nobody should know any more, from the given one on.
func (r *rotating) former(from int) (former []*signkey.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := from; i+1 < len(r.signed) && time.Since(r.since[i+1]) > over; i++ {
		former = append(former, r.stolen[r.signed[i]])
	}
	return former
}

// forge signs with a key that was copied.
func (r *rotating) forge(key *signkey.Key) string {
	r.Helper()
	operation, err := rule.Operation(server2v1.InvoiceService_GetInvoice_FullMethodName, look)
	if err != nil {
		r.Fatal(err)
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: pair.Issuer, Key: key})
	if err != nil {
		r.Fatal(err)
	}
	raw, _, err := issuer.Issue(r.Context(), handoff.IssueParams{
		Audience: pair.Audience, Subject: r.pair.Users["bob"].ID, Operation: operation,
	})
	if err != nil {
		r.Fatal(err)
	}
	return raw
}

// tried presents what a copied key signs to all audiences, each of which may first
// have to wait for a list.
func (r *rotating) tried(what string, key *signkey.Key, want handoff.Reason) {
	r.Helper()
	token, began := r.forge(key), time.Now()
	for audience := range r.bob.audiences {
		reason := r.bob.use(r.Context(), audience, token)
		for ; reason == handoff.ReasonTrustStale && time.Since(began) < patience; reason = r.bob.use(r.Context(), audience, token) {
			time.Sleep(10 * time.Millisecond)
		}
		if reason != want {
			r.Errorf("audience %d: what %s signs: %s, want %s", audience, what, reason, want)
		}
	}
}

// F06, F07: keys change under traffic, while one audience's way to the trust list
// flaps: no valid token is refused, and a key that is retired or tainted signs
// nothing that is accepted once its time is over.
func TestRotationUnderTraffic(t *testing.T) {
	t.Parallel()
	r := startRotating(t)
	rotations := measure.Of(1, 2, 20)
	if _, _, err := r.issue(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.tried("a copy of the signing key", r.stolen[r.signed[0]], 0) // the control of all that follow

	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop() // before the wait, or a failure waits forever
	for range 8 {
		group.Go(func() { r.traffic(ctx) })
	}
	group.Go(func() { r.flap(ctx) })

	done := progress(t, func() string { return fmt.Sprintf("%d rotations, %d uses", r.rotations(), r.uses.Load()) })
	defer done()
	tried := 0
	happened := func() bool { // of what could go wrong, while most of what should go well does
		stale := r.stale.Load()
		accepted := r.uses.Load() - stale
		return tried >= rotations && accepted >= 100 && accepted >= stale && r.flaps.Load() >= 3
	}
	for !happened() && !t.Failed() {
		for _, key := range r.former(tried) {
			r.tried("a retired key", key, handoff.ReasonTokenInvalid)
			tried++
		}
		if time.Since(began) > time.Duration(rotations+2)*2*(every+life)+patience {
			t.Fatalf("in %s there were %d rotations, %d retired keys tried, %d uses, for %d of which a list was late, and %d flaps",
				time.Since(began), r.rotations(), tried, r.uses.Load(), r.stale.Load(), r.flaps.Load())
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	group.Wait()
	took := time.Since(began)
	for _, key := range r.former(0) {
		r.tried("a key that was retired long ago", key, handoff.ReasonTokenInvalid)
	}
	t.Logf("%d rotations in %s, %d uses of valid tokens, for %d of which a list was late, %d flaps; %d retired keys tried",
		r.rotations(), took.Round(time.Second), r.uses.Load(), r.stale.Load(), r.flaps.Load(), tried)
	r.taint()
}

// taint takes the key that signs out of the list; its successor's tokens stand.
func (r *rotating) taint() {
	r.Helper()
	var leaked string
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if _, _, err := r.issue(r.Context()); err != nil {
			r.Fatal(err)
		}
		leaked = r.signed[len(r.signed)-1]
		_, err := r.pair.Operate(r.Context(), []string{"keys", "taint"}, leaked)
		if err == nil {
			break
		}
		if time.Since(began) > patience { // by when SERVER1 has prepared another
			r.Fatal(err)
		}
	}
	forged := r.forge(r.stolen[leaked])
	for audience := range r.bob.audiences {
		r.bob.becomes(r.T, audience, forged, handoff.ReasonTokenInvalid)
	}
	token, dies, err := r.issue(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	if kid(r.T, token) == leaked {
		r.Error("a tainted key signs")
	}
	r.accepted(r.Context(), token, dies)
}

// F03: an audience that cannot read the list for longer than it may refuses all
// and says that it does not serve; the others go on; and it does again once it can.
func TestOneAudienceLosesTheList(t *testing.T) {
	t.Parallel()
	r := startRotating(t)
	cutOff, err := pair.Dial(r.pair.Server1.Address, r.pair.Audiences[2].Address, r.pair.CA)
	if err != nil {
		t.Fatal(err)
	}
	defer cutOff.Close()
	for name, harm := range map[string]func(){"cut": r.link.Cut, "stalled": r.link.Stall} {
		t.Run(name, func(t *testing.T) {
			harm()
			began := time.Now()
			use := func(audience int) handoff.Reason {
				token, _, err := r.issue(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return r.bob.use(t.Context(), audience, token)
			}
			stale := time.Duration(0)
			stood, late := 0, 0 // answers of those that have the list
			goOn := func() bool { return stood >= 50 && stood >= late }
			for time.Since(began) < patience && (stale == 0 || time.Since(began) < stale+time.Second || !goOn()) {
				for audience := range 2 {
					switch reason := use(audience); reason {
					case 0:
						stood++
					case handoff.ReasonTrustStale: // this machine is late
						late++
					default:
						t.Errorf("audience %d, which has the list: %s", audience, reason)
					}
				}
				switch reason := use(2); {
				case reason == handoff.ReasonTrustStale && stale == 0:
					stale = time.Since(began)
				case reason != 0 && reason != handoff.ReasonTrustStale, reason == 0 && stale > 0:
					t.Fatalf("after %s: %s", time.Since(began), reason)
				}
				time.Sleep(10 * time.Millisecond)
			}
			if stale == 0 || !goOn() {
				t.Fatalf("stale after %s; the others accept %d times, and have an old list %d times", stale, stood, late)
			}
			wantServing(t, cutOff, false)
			r.link.Pass()
			back := time.Now()
			for reason := use(2); reason != 0; reason = use(2) {
				if reason != handoff.ReasonTrustStale || time.Since(back) > patience {
					t.Fatalf("%s after the link is back: %s", time.Since(back), reason)
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Logf("stale from %s after the fault, until %s after it", stale.Round(time.Millisecond), time.Since(back).Round(time.Millisecond))
			wantServing(t, cutOff, true)
		})
	}
}
