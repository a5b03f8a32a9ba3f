package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// story is the tale of one cluster, told by a client that takes the replicas in
// turns and, where a line is about one of them, by a client of that one.
type story struct {
	pair  *pair.Pair
	redis *pair.Redis

	all   *pair.Client
	each  []*pair.Client // of a SERVER2, and of a SERVER1 in turns
	alice string         // her session

	steps, wrong int
}

func (s *story) tell(ctx context.Context) (err error) {
	if s.all, err = pair.DialReplicas(s.pair.Issuers, s.pair.Audiences, s.pair.CA); err != nil {
		return err
	}
	defer s.all.Close()
	for i, audience := range s.pair.Audiences {
		client, err := pair.Dial(s.pair.Issuers[i%len(s.pair.Issuers)].Address, audience.Address, s.pair.CA)
		if err != nil {
			return err
		}
		defer client.Close()
		s.each = append(s.each, client)
	}
	for _, part := range []func(context.Context) error{s.once, s.takeBack, s.redisGone, s.replicasGone} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// once is of what any SERVER1 has signed, and all SERVER2s run once.
func (s *story) once(ctx context.Context) error {
	fmt.Print("\nA handoff of any SERVER1 counts once, at whichever SERVER2\n\n")
	signedIn, err := s.each[0].SignIn(ctx, "alice", pair.Password)
	if err != nil {
		return fmt.Errorf("alice cannot sign in: %w", err)
	}
	s.alice = signedIn.GetSession()
	request := payment("INV-42", 1200)
	token, err := issue(ctx, s.each[1], s.alice, request)
	if err != nil {
		return err
	}
	s.step("she signs in at one SERVER1, is issued by the other, pays", "paid", pay(ctx, s.all, request, token.GetToken()))
	s.step("the same token at each SERVER2", "3 TOKEN_REPLAYED", s.atEach(ctx, request, token.GetToken()))

	var again []string
	for _, client := range s.each {
		token, err := issue(ctx, s.all, s.alice, request)
		if err != nil {
			return err
		}
		again = append(again, pay(ctx, client, request, token.GetToken()))
	}
	s.step("the same request at each SERVER2, by a handoff of its own", "3 the first payment", count(again))

	request = payment("INV-44", 500)
	if token, err = issue(ctx, s.all, s.alice, request); err != nil {
		return err
	}
	outcomes := make([]string, 64)
	var group sync.WaitGroup
	for i := range outcomes {
		group.Go(func() { outcomes[i] = pay(ctx, s.all, request, token.GetToken()) })
	}
	group.Wait()
	s.step("64 callers at once with one token, over all SERVER2s", "63 TOKEN_REPLAYED, 1 paid", count(outcomes))
	return nil
}

// takeBack is of what is taken back at one SERVER1.
func (s *story) takeBack(ctx context.Context) error {
	fmt.Print("\nWhat one SERVER1 takes back, all SERVER2s refuse\n\n")
	request := payment("INV-44", 500)
	token, err := issue(ctx, s.each[0], s.alice, request)
	if err != nil {
		return err
	}
	_, err = s.each[1].Handoffs.RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: token.GetHandoffId()}, pair.Session(s.alice))
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	s.step("revoked at the SERVER1 that did not issue it, 1 s ago", "3 TOKEN_REVOKED", s.atEach(ctx, request, token.GetToken()))

	signedIn, err := s.each[0].SignIn(ctx, "bob", pair.Password)
	if err != nil {
		return err
	}
	if _, err := s.each[0].Sessions.SignOut(ctx, &server1v1.SignOutRequest{}, pair.Session(signedIn.GetSession())); err != nil {
		return err
	}
	_, err = issue(ctx, s.each[1], signedIn.GetSession(), request)
	s.step("bob signs out at one SERVER1 and asks the other", "SESSION_INVALID", outcome(err))
	return nil
}

// redisGone is of a Redis that stands still, and is killed.
func (s *story) redisGone(ctx context.Context) error {
	fmt.Print("\nWithout its Redis, SERVER2 runs nothing; and a Redis that was killed has forgotten nothing\n\n")
	request := payment("INV-44", 500)
	token, err := issue(ctx, s.all, s.alice, request)
	if err != nil {
		return err
	}
	spent := pay(ctx, s.all, request, token.GetToken())
	s.step("she hands off paying INV-44 again", "INVOICE_ALREADY_PAID", spent)
	if err := s.redis.Stall(); err != nil {
		return err
	}
	unused, err := issue(ctx, s.all, s.alice, request)
	if err != nil {
		return err
	}
	s.step("Redis stands still; another token at each SERVER2", "3 STORE_UNAVAILABLE", s.atEach(ctx, request, unused.GetToken()))
	if err := s.redis.Kill(); err != nil {
		return err
	}
	if err := s.redis.Start(ctx); err != nil {
		return err
	}
	if err := s.pair.Ready(ctx); err != nil { // SERVER2 has said that it is not, and will when it has found Redis again
		return err
	}
	s.step("Redis is killed and started; the token that was spent", "3 TOKEN_REPLAYED", s.atEach(ctx, request, token.GetToken()))
	return nil
}

// replicasGone is of processes that are killed.
func (s *story) replicasGone(ctx context.Context) error {
	fmt.Print("\nA SERVER1 and a SERVER2 are killed, and nobody need be told\n\n")
	if err := s.pair.Audiences[2].Kill(); err != nil {
		return err
	}
	if err := s.pair.Issuers[1].Kill(); err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // the client sees the connections end
	var outcomes []string
	for range 12 {
		request := payment("INV-43", 9900) // bob's
		token, err := issue(ctx, s.all, s.alice, request)
		if err != nil {
			outcomes = append(outcomes, outcome(err))
			continue
		}
		outcomes = append(outcomes, pay(ctx, s.all, request, token.GetToken()))
	}
	s.step("12 handoffs of paying bob's INV-43", "12 INVOICE_NOT_FOUND", count(outcomes))
	if err := s.pair.Restart(ctx); err != nil {
		return err
	}
	return s.pair.Ready(ctx)
}

// step tells one step: what was done, what was expected, and what happened.
func (s *story) step(did, expected, happened string) {
	s.steps++
	verdict := "ok"
	if happened != expected {
		verdict = "WRONG"
		s.wrong++
	}
	fmt.Printf("%3d %-5s %-60s expected %s; got %s\n", s.steps, verdict, did, expected, happened)
}

func issue(ctx context.Context, client *pair.Client, session string, request *server2v1.PayInvoiceRequest) (*handoffv1.IssueHandoffResponse, error) {
	return client.Issue(ctx, session, pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, request, 0)
}

func pay(ctx context.Context, client *pair.Client, request *server2v1.PayInvoiceRequest, token string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	response, err := client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(token))
	if err == nil && response.GetRepeatedRequest() {
		return "the first payment"
	}
	return outcome(err)
}

// atEach presents one token to each SERVER2, one after the other.
func (s *story) atEach(ctx context.Context, request *server2v1.PayInvoiceRequest, token string) string {
	var outcomes []string
	for _, client := range s.each {
		outcomes = append(outcomes, pay(ctx, client, request, token))
	}
	return count(outcomes)
}

// count sums outcomes up: 63 TOKEN_REPLAYED, 1 paid.
func count(outcomes []string) string {
	slices.Sort(outcomes)
	var sums []string
	for i := 0; i < len(outcomes); {
		n := 1
		for i+n < len(outcomes) && outcomes[i+n] == outcomes[i] {
			n++
		}
		sums = append(sums, fmt.Sprintf("%d %s", n, outcomes[i]))
		i += n
	}
	return strings.Join(sums, ", ")
}

func payment(invoice string, minorUnits int64) *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: invoice,
		Amount:    &server2v1.Money{CurrencyCode: "EUR", MinorUnits: minorUnits},
		RequestId: uuid.NewString(),
	}
}

// outcome is what a call came to: the reason of a refusal, or "paid".
func outcome(err error) string {
	if err == nil {
		return "paid"
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return status.Convert(err).String()
}
