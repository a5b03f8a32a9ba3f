package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/harness"
)

type clusterCommand struct{}

// Run tells the story of more than one machine: the demo's, to a client that
// takes the replicas in turns, and then what must hold across them.
func (clusterCommand) Run(ctx context.Context, stage *stage) error {
	return stage.tell("Everything has stopped.", func(n *narrator, dir string) (err error) {
		redis, err := harness.StartRedis(ctx, filepath.Join(dir, "redis"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, redis.Stop()) }()
		postgres, err := pair.StartPostgres(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, postgres.Stop()) }()
		fmt.Fprintf(stage.out, "Database %-26s %-15s  process %d\n", "PostgreSQL, one for each", "a socket", postgres.Pid())
		fmt.Fprintf(stage.out, "Redis    %-26s %s  process %d\n", "what SERVER2 has redeemed", strings.TrimPrefix(redis.URL, "redis://"), redis.Pid())
		config := pair.Config{
			Dir: filepath.Join(dir, "servers"), Issuers: 2, Audiences: 3, Visits: visits, Postgres: postgres, Server2: []string{"--replay", redis.URL},
		}
		return stage.with(ctx, config, func(p *pair.Pair) error {
			c := &cluster{narrator: n, pair: p, redis: redis}
			return c.tell(ctx)
		})
	})
}

// cluster is the tale of several of each server. Where a line is about one of
// them, it is told by a client of that one.
type cluster struct {
	*narrator
	pair  *pair.Pair
	redis *harness.Redis

	all   *pair.Client   // takes them in turns
	each  []*pair.Client // of a SERVER2, and of a SERVER1 in turns
	alice string         // her session
}

func (s *cluster) tell(ctx context.Context) (err error) {
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
	demo := &story{narrator: s.narrator, pair: s.pair, client: s.all, first: s.each[0]}
	for _, part := range []func(context.Context) error{demo.tell, s.back, s.once, s.takeBack, s.redisGone, s.replicasGone} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// back waits until the SERVER1s that the demo's story has stopped are used again,
// and heard by every SERVER2: health, which says so too, may be half a second late.
func (s *cluster) back(ctx context.Context) error {
	if err := s.pair.Ready(ctx); err != nil {
		return err
	}
	for _, client := range append([]*pair.Client{s.all}, s.each...) {
		if err := client.Ready(ctx); err != nil {
			return err
		}
	}
	_, handoff, err := (&story{client: s.all}).look(ctx)
	if err != nil {
		return err
	}
	const patience = 5 * time.Second
	for _, client := range s.each {
		if got := within(ctx, client, patience, shown, handoff.GetToken()); got != shown+" within "+words(patience) {
			return fmt.Errorf("a SERVER2, once SERVER1 is back: %s", got)
		}
	}
	return nil
}

// once is of what any SERVER1 has signed, and all SERVER2s run once.
func (s *cluster) once(ctx context.Context) error {
	s.chapter("A handoff from any SERVER1 runs once, at any SERVER2")
	signedIn, err := s.each[0].SignIn(ctx, "alice", pair.Password)
	if err != nil {
		return fmt.Errorf("alice cannot sign in: %w", err)
	}
	s.alice = signedIn.GetSession()
	request := payment("INV-46", 700)
	token, err := issue(ctx, s.each[1], s.alice, request)
	if err != nil {
		return err
	}
	first, err := s.all.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(token.GetToken()))
	s.step("alice signs in at one SERVER1, gets a handoff from the other, and pays", "paid", outcome(err))
	var answers []string
	for _, client := range s.each {
		again, err := client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(token.GetToken()))
		answers = append(answers, sameAnswer(first, again, err))
	}
	s.step("the same token at each SERVER2", "3 the first answer", count(answers))

	var again []string
	for _, client := range s.each {
		token, err := issue(ctx, s.all, s.alice, request)
		if err != nil {
			return err
		}
		again = append(again, pay(ctx, client, request, token.GetToken()))
	}
	s.step("the same request at each SERVER2, each with its own handoff", "3 the first payment", count(again))

	request = payment("INV-47", 300)
	if token, err = issue(ctx, s.all, s.alice, request); err != nil {
		return err
	}
	outcomes := make([]string, 64)
	var group sync.WaitGroup
	for i := range outcomes {
		group.Go(func() {
			paid, err := s.all.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(token.GetToken()))
			if outcomes[i] = outcome(err); err == nil {
				outcomes[i] = "payment " + paid.GetPayment().GetPaymentId()
			}
		})
	}
	group.Wait()
	// Who comes before the payment is made hears TOKEN_REPLAYED, who comes after it the first answer.
	slices.Sort(outcomes)
	distinct := slices.DeleteFunc(slices.Compact(outcomes), func(o string) bool { return o == "TOKEN_REPLAYED" })
	s.step("64 calls at once with one token, spread over all SERVER2s", "1 payment", one(distinct))
	return nil
}

// takeBack is of what is taken back at one SERVER1.
func (s *cluster) takeBack(ctx context.Context) error {
	s.chapter("What one SERVER1 takes back, every SERVER2 refuses")
	request := payment("INV-47", 300)
	token, err := issue(ctx, s.each[0], s.alice, request)
	if err != nil {
		return err
	}
	_, err = s.each[1].Handoffs.RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: token.GetHandoffId()}, pair.Session(s.alice))
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	s.step("a token that was revoked 1 s ago, at the SERVER1 that did not issue it", "3 TOKEN_REVOKED", s.atEach(ctx, request, token.GetToken()))

	signedIn, err := s.each[0].SignIn(ctx, "bob", pair.Password)
	if err != nil {
		return err
	}
	if _, err := s.each[0].Sessions.SignOut(ctx, &server1v1.SignOutRequest{}, pair.Session(signedIn.GetSession())); err != nil {
		return err
	}
	_, err = issue(ctx, s.each[1], signedIn.GetSession(), request)
	s.step("bob signs out at one SERVER1 and asks the other for a handoff", "SESSION_INVALID", outcome(err))
	return nil
}

// redisGone is of a Redis that stands still, and is killed.
func (s *cluster) redisGone(ctx context.Context) error {
	s.chapter("Without Redis, SERVER2 runs nothing. A Redis that is killed forgets nothing")
	request := payment("INV-47", 300)
	token, err := issue(ctx, s.all, s.alice, request)
	if err != nil {
		return err
	}
	spent := pay(ctx, s.all, request, token.GetToken())
	s.step("alice hands off another payment of INV-47", "INVOICE_ALREADY_PAID", spent)
	if err := s.redis.Stall(); err != nil {
		return err
	}
	unused, err := issue(ctx, s.all, s.alice, request)
	if err != nil {
		return err
	}
	s.step("Redis is stopped; a new token at each SERVER2", "3 STORE_UNAVAILABLE", s.atEach(ctx, request, unused.GetToken()))
	if err := s.redis.Kill(); err != nil {
		return err
	}
	if err := s.redis.Start(ctx); err != nil {
		return err
	}
	if err := s.pair.Ready(ctx); err != nil { // SERVER2 has said that it is not, and will when it has found Redis again
		return err
	}
	s.step("Redis is killed and started; the spent token at each SERVER2", "3 TOKEN_REPLAYED", s.atEach(ctx, request, token.GetToken()))
	return nil
}

// replicasGone is of processes that are killed.
func (s *cluster) replicasGone(ctx context.Context) error {
	s.chapter("One SERVER1 and one SERVER2 are killed, and the clients go on")
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
	s.step("12 handoffs of a payment of INV-43, which is bob's", "12 INVOICE_NOT_FOUND", count(outcomes))
	if err := s.pair.Restart(ctx); err != nil {
		return err
	}
	return s.pair.Ready(ctx)
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
func (s *cluster) atEach(ctx context.Context, request *server2v1.PayInvoiceRequest, token string) string {
	var outcomes []string
	for _, client := range s.each {
		outcomes = append(outcomes, pay(ctx, client, request, token))
	}
	return count(outcomes)
}

// one says how many payments there are, if there is nothing else.
func one(payments []string) string {
	if len(payments) == 1 && strings.HasPrefix(payments[0], "payment ") {
		return "1 payment"
	}
	return count(payments)
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
