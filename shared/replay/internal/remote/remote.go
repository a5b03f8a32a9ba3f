// Package remote has what a store of redemptions holds its callers to when the marks are
// on a server of their own, which can start over; and how every store names a mark.
package remote

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Bounds are those of one store.
type Bounds struct {
	Server string        // what keeps the marks, for errors: "Redis"
	Skew   time.Duration // the largest of a verifier, and of the clocks
	Now    func() time.Time
}

// Mark names a token. Both parts are hashed, so that nobody who chooses an id can meet
// another issuer's marks or make two ids one.
func Mark(issuer, id string) [16]byte {
	text := make([]byte, 0, 320)
	text = append(text, issuer...)
	text = append(text, 0) // an issuer never contains it
	text = append(text, id...)
	sum := sha256.Sum256(text)
	return [16]byte(sum[:])
}

var errTooLong = errors.New("the token lives longer than any may")

// Takes returns why a redemption is refused that the server need not be asked about.
func (b Bounds) Takes(ctx context.Context, r handoff.Redemption) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("not redeemed: %w", err)
	}
	if r.Skew > b.Skew {
		return fmt.Errorf("the verifier's skew is larger than the store's: a %s that starts over would forget redemptions: %s and %s", b.Server, r.Skew, b.Skew)
	}
	if r.Expires.Sub(r.IssuedAt) > handoff.MaxLifetime+b.Skew {
		return errTooLong
	}
	return nil
}

// Ready returns from when on tokens are issued that a store accepts whose epoch began
// then: from a whole second, as iat is one.
func (b Bounds) Ready(began time.Time) time.Time {
	return began.Add(b.Skew).Truncate(time.Second).Add(time.Second)
}

// Healthy returns why a store cannot accept redemptions now, of which the last check has
// found err; or nil if it can.
func (b Bounds) Healthy(began time.Time, err error) error {
	if err != nil {
		return err
	}
	if wait := b.Ready(began).Sub(b.Now()); wait > 0 {
		return fmt.Errorf("%w: ready in %s", handoff.ErrIssuedBeforeStart, wait.Round(time.Millisecond))
	}
	return nil
}
