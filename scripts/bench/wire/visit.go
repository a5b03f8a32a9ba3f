package wire

import (
	"context"
	"errors"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// Unbounded are the settings of a SERVER1 whose speed is measured, and not its quota.
func Unbounded() []string { return []string{"--handoff-quota", "10000000"} }

// visit is a user who is signed in at a pair of servers.
type visit struct {
	pair    *pair.Pair
	client  *pair.Client
	session string
	request *server2v1.PayInvoiceRequest
}

// newVisit starts a pair with a trust list and no quota, and signs in.
func newVisit(ctx context.Context, config pair.Config) (_ visit, err error) {
	config.Server1, config.Trust = Unbounded(), true
	v := visit{request: Invoice()}
	if v.pair, err = pair.Start(ctx, config); err != nil {
		return v, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.end())
		}
	}()
	if err := v.pair.Ready(ctx); err != nil {
		return v, err
	}
	if v.client, err = v.pair.Dial(); err != nil {
		return v, err
	}
	answer, err := v.client.SignIn(ctx, "alice", pair.Password)
	v.session = answer.GetSession()
	return v, err
}

func (v visit) end() error {
	if v.client != nil {
		v.client.Close()
	}
	return v.pair.Stop()
}

func (v visit) issue(ctx context.Context, _ int) error {
	_, err := v.handoff(ctx)
	return err
}

func (v visit) handoff(ctx context.Context) (string, error) {
	answer, err := v.client.Issue(ctx, v.session, pair.Audience, raced.PayMethod, v.request, 0)
	return answer.GetToken(), err
}

// whole pays the same invoice with the same request id each time: the first pays,
// and the others are told so. Each spends a token of its own.
func (v visit) whole(ctx context.Context, _ int) error {
	raw, err := v.handoff(ctx)
	if err != nil {
		return err
	}
	answer, err := v.client.Invoices.PayInvoice(ctx, v.request, handoffgrpc.Token(raw))
	if err == nil && answer.GetPayment().GetInvoiceId() != v.request.GetInvoiceId() {
		err = errors.New("the answer is to another call")
	}
	return err
}

// tokens hands off the same payment n times. The first call pays, and the others are
// told so.
func (v visit) tokens(ctx context.Context, n int) ([]string, error) {
	raws := make([]string, n)
	_, err := measure.Closed(ctx, n, callers, func(ctx context.Context, i int) (err error) {
		raws[i], err = v.handoff(ctx)
		return err
	})
	return raws, err
}

// Invoice is the payment of one of the demo's invoices. Only the first of these
// pays: the others repeat its request id, and are told of its payment.
func Invoice() *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200},
		RequestId: "7d0a3e9c-6c2f-4c8e-9a51-0a3f6d1f7b11",
	}
}
