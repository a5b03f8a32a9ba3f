package wire

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// Recalled measures how soon SERVER2 refuses a handoff that SERVER1 has said is taken back.
func Recalled(ctx context.Context, s measure.Settings, t *measure.Table) (err error) {
	n := 100
	if s.Short {
		n = 10
	}
	v, err := newVisit(ctx, pair.Config{Bin: s.Bin, Dir: filepath.Join(s.Dir, "recalled")})
	if err != nil {
		return fmt.Errorf("make build comes first: %w", err)
	}
	defer func() { err = errors.Join(err, v.end()) }()
	took := make([]time.Duration, n)
	for i := range took {
		answer, err := v.client.Issue(ctx, v.session, pair.Audience, raced.PayMethod, v.request, 0)
		if err != nil {
			return err
		}
		if _, err := v.client.Handoffs.RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: answer.GetHandoffId()}, pair.Session(v.session)); err != nil {
			return err
		}
		if took[i], err = v.refusedAfter(ctx, answer.GetToken()); err != nil {
			return err
		}
	}
	ns := func(d time.Duration) float64 { return float64(d) }
	t.Add(measure.Line{
		What: "a handoff that is taken back is refused after", Median: measure.Microseconds(measure.Median(took, ns)),
		Note: fmt.Sprintf("at the latest %s, of %d, one after the other", measure.Microseconds(float64(slices.Max(took))), n),
	})
	t.Most("a handoff that is taken back is refused after, at the latest", slices.Max(took).Seconds(), 1, " s")
	return nil
}

// refusedAfter calls with a token until it is refused as one that was taken back.
func (v visit) refusedAfter(ctx context.Context, raw string) (time.Duration, error) {
	start := time.Now()
	for time.Since(start) < 10*time.Second {
		_, err := v.client.Invoices.PayInvoice(ctx, v.request, handoffgrpc.Token(raw))
		switch reason := handoffgrpc.ReasonOf(err); {
		case reason == handoff.ReasonTokenRevoked:
			return time.Since(start), nil
		case err != nil && reason != handoff.ReasonTokenReplayed:
			return 0, err
		}
	}
	return 0, errors.New("a handoff that was taken back still counts after ten seconds")
}
