package handoff_test

import (
	"context"
	"errors"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// A deferred redemption is one for one call: after it was kept, while it is open, and
// once the handler has returned, there is no other.
func TestDeferred(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
	if err != nil {
		t.Fatal(err)
	}
	var granted int
	deferral := func() *handoff.Deferred {
		d, err := b.verifier.Defer(t.Context(), verified, operation, handoff.Rule{}, func(*handoff.Grant) { granted++ })
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	good := func(context.Context, handoff.Redemption) error { return nil }
	redeem := func(d *handoff.Deferred, spend func(context.Context, handoff.Redemption) error) handoff.Reason {
		grant, err := d.Redeem(t.Context(), spend)
		if (grant == nil) != (err != nil) {
			t.Errorf("got %v, %v", grant, err)
		}
		return handoff.ReasonOf(err)
	}

	d := deferral()
	if found, ok := handoff.DeferredFrom(d.Context(t.Context())); !ok || found != d {
		t.Error("the context does not carry it")
	}
	if _, ok := handoff.FromContext(d.Context(t.Context())); ok {
		t.Error("a grant before the redemption")
	}
	if got := redeem(d, good); got != 0 || !d.Open() {
		t.Errorf("got %v", got)
	}
	if got := redeem(d, good); got != handoff.ReasonStoreUnavailable || !d.Open() {
		t.Errorf("while it is open: %v", got)
	}
	d.Settle(false)
	if got := redeem(d, good); got != 0 {
		t.Errorf("after it was undone: %v", got)
	}
	d.Settle(true)
	if got := redeem(d, good); got != handoff.ReasonStoreUnavailable {
		t.Errorf("after it was kept: %v", got)
	}
	d.Settle(false)
	if kept, refusal := d.Close(); !kept || refusal != nil {
		t.Errorf("got %v, %v", kept, refusal)
	}

	d = deferral()
	if kept, refusal := d.Close(); kept || refusal != nil {
		t.Errorf("nothing was redeemed: %v, %v", kept, refusal)
	}
	if got := redeem(d, good); got != handoff.ReasonStoreUnavailable {
		t.Errorf("after the call: %v", got)
	}
	for answer, want := range map[error]handoff.Reason{
		handoff.ErrReplayed: handoff.ReasonTokenReplayed, handoff.ErrIssuedBeforeStart: handoff.ReasonIssuedBeforeStart,
		errors.New("away"): handoff.ReasonStoreUnavailable, handoff.ErrStoreFull: handoff.ReasonLimitExceeded,
	} {
		d := deferral()
		if got := redeem(d, func(context.Context, handoff.Redemption) error { return answer }); got != want {
			t.Errorf("%v: %v", answer, got)
		}
		kept, refusal := d.Close()
		if kept || refusal == nil || refusal.Reason != want || refusal.Claims == nil || (refusal.Spent() != nil) != (want == handoff.ReasonTokenReplayed) {
			t.Errorf("%v: closed with %v, %+v", answer, kept, refusal)
		}
	}
	if granted != 2 {
		t.Errorf("%d grants told, want 2", granted)
	}

	// What would not be redeemed is not deferred.
	other := operation
	other.Method = "/billing.v1.Billing/Refund"
	for want, defers := range map[handoff.Reason]func() error{
		handoff.ReasonMethodMismatch: func() error {
			_, err := b.verifier.Defer(t.Context(), verified, other, handoff.Rule{}, nil)
			return err
		},
		handoff.ReasonRuleMissing: func() error {
			_, err := b.verifier.Defer(t.Context(), verified, operation, handoff.Rule{Reusable: true}, nil)
			return err
		},
		handoff.ReasonTokenInvalid: func() error {
			_, err := newBench(t, handoff.EdDSA).verifier.Defer(t.Context(), verified, operation, handoff.Rule{}, nil)
			return err
		},
	} {
		if got := handoff.ReasonOf(defers()); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
