package invoices

import (
	"time"

	"google.golang.org/grpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
)

// export sends a payer's payments, each once.
type export struct {
	from func(after ledger.Payment) ([]ledger.Payment, error)
	to   grpc.ServerStreamingServer[server2v1.ExportPaymentsResponse]

	last ledger.Payment       // the newest that was sent, or a time before it
	sent map[string]time.Time // those whose time is not settled, by id; nil: nothing is read again
}

// all sends what comes after the last payment.
func (e *export) all() error {
	for {
		page, err := e.from(e.last)
		if err != nil {
			return err
		}
		for _, p := range page {
			e.last = p
			if _, again := e.sent[p.ID]; again {
				continue
			}
			if err := e.to.Send(&server2v1.ExportPaymentsResponse{Payment: payment(p)}); err != nil {
				return err
			}
			if e.sent != nil {
				e.sent[p.ID] = p.Time
			}
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// stepBack has the next look begin where the newest payment's predecessors may still
// appear.
func (e *export) stepBack() {
	if e.last.ID == "" {
		return
	}
	since := e.last.Time.Add(-settled)
	for id, at := range e.sent {
		if at.Before(since) {
			delete(e.sent, id)
		}
	}
	e.last = ledger.Payment{ID: "-", Time: since} // before all ids, and not the zero, which is before all
}
