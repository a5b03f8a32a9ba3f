package e2e

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// shared is three replicas of SERVER2 that keep their redemptions in one Redis,
// and a user who may use them all.
type shared struct {
	*testing.T
	redis *pair.Redis
	pair  *pair.Pair
	bob   *user
}

func startShared(t *testing.T) *shared {
	t.Helper()
	redis, err := pair.StartRedis(t.Context(), filepath.Join(t.TempDir(), "redis"))
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("HANDOFF_CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := redis.Kill(); err != nil {
			t.Error(err)
		}
	})
	p := trusting(t, pair.Config{Audiences: 3, Server2: []string{"--replay", redis.URL}})
	return &shared{t, redis, p, signIn(t, p, "bob")}
}

// order is single use. That the invoice is not bob's is the handler's to say:
// whoever hears it was let through to it.
var order = &server2v1.PayInvoiceRequest{
	InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: uuid.NewString(),
}

// outcome is what a use of a token came to.
type outcome int

const (
	unknown  outcome = iota // refused or lost: it may have spent the token, and may yet
	accepted                // SERVER2 has run the call
	replayed                // the token was spent before
)

// present uses a token at one replica.
func (s *shared) present(replica int, token string, options ...grpc.CallOption) (outcome, error) {
	ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
	defer cancel()
	_, err := s.bob.audiences[replica].PayInvoice(ctx, order, append(options, handoffgrpc.Token(token))...)
	switch {
	case status.Code(err) == codes.NotFound:
		return accepted, nil
	case handoffgrpc.ReasonOf(err) == handoff.ReasonTokenReplayed:
		return replayed, err
	}
	return unknown, err
}

// fresh is a token that nobody has used.
func (s *shared) fresh() string {
	issued, err := s.bob.Issue(s.Context(), s.bob.session, pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, order, 0)
	if err != nil {
		s.Error(err)
	}
	return issued.GetToken()
}

// spending is how a token must behave, whoever uses it wherever: it is unspent,
// and then spent for ever.
var spending = porcupine.Model{
	Init: func() any { return false },
	Step: func(spent, _, output any) (bool, any) {
		switch output {
		case accepted:
			return !spent.(bool), true
		case replayed:
			return spent.(bool), true
		}
		return true, true
	},
}

// telling is the part of a history that decides whether all of it is one: every
// acceptance; of the uses that may have spent the token the first, as any other
// can come last; and of those who found it spent the one who was told first, as
// the others can come after. Without this the search would try every order of
// what does not matter.
func telling(history []porcupine.Operation) (told []porcupine.Operation) {
	var doubt, replay *porcupine.Operation
	for i, operation := range history {
		switch operation.Output {
		case accepted:
			told = append(told, operation)
		case unknown:
			if doubt == nil || operation.Call < doubt.Call {
				doubt = &history[i]
			}
		case replayed:
			if replay == nil || operation.Return < replay.Return {
				replay = &history[i]
			}
		}
	}
	for _, operation := range []*porcupine.Operation{doubt, replay} {
		if operation != nil {
			told = append(told, *operation)
		}
	}
	return told
}

// crowd has callers use one token at all replicas at once, and then once more,
// and returns how many were accepted and how many refused without knowing why.
// What they were told must be a history of one token.
func (s *shared) crowd(callers int) (accepts, doubts int) {
	token, began := s.fresh(), time.Now()
	history := make([]porcupine.Operation, callers)
	use := func(i int) {
		called := time.Since(began)
		got, _ := s.present(i%3, token)
		returned := int64(time.Since(began))
		if got == unknown {
			returned = math.MaxInt64
		}
		history[i] = porcupine.Operation{ClientId: i, Call: int64(called), Output: got, Return: returned}
	}
	var group sync.WaitGroup
	for i := range callers - 3 {
		group.Go(func() { use(i) })
	}
	group.Wait()
	for i := callers - 3; i < callers; i++ { // each replica, after all that
		use(i)
	}
	for _, operation := range history {
		switch operation.Output {
		case accepted:
			accepts++
		case unknown:
			doubts++
		}
	}
	if accepts > 1 {
		s.Errorf("one token was accepted %d times", accepts)
	}
	if told := telling(history); !porcupine.CheckOperations(spending, told) {
		s.Errorf("what the callers of a token were told is not one history: %+v", told)
	}
	return accepts, doubts
}

// E01, E03, E06: while Redis is killed and stopped and a replica is killed, no
// token is accepted twice, and what all callers are told is one history; once
// that is over, fresh tokens are accepted.
func TestChaos(t *testing.T) {
	s := startShared(t)
	tokens, callers := inShort(300, 10_000), inShort(16, 64)
	every := time.Duration(inShort(250, 5000)) * time.Millisecond

	var begun, once, doubtful atomic.Int64
	crowds := make(chan struct{})
	go func() {
		defer close(crowds)
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for begun.Add(1) <= int64(tokens) && !t.Failed() {
					accepts, doubts := s.crowd(callers)
					once.Add(int64(accepts))
					doubtful.Add(int64(doubts))
				}
			})
		}
		group.Wait()
	}()
	faults := s.disturb(every, crowds)
	<-crowds
	t.Logf("%d faults; %d tokens used by %d callers each: %d were accepted once, none twice; %d uses were refused without knowing",
		faults, tokens, callers, once.Load(), doubtful.Load())
	if once.Load() < int64(tokens)/4 {
		t.Errorf("only %d of %d tokens were accepted at all: there was little to be wrong", once.Load(), tokens)
	}
	s.calm(inShort(1000, 5000))
}

// disturb does one harm after another until the crowds are done, and makes each
// good again.
func (s *shared) disturb(every time.Duration, crowds <-chan struct{}) (faults int) {
	must := func(err error) {
		if err != nil {
			s.Error(err)
		}
	}
	for ; ; faults++ {
		select {
		case <-crowds:
			return faults
		case <-time.After(every):
		}
		switch faults % 4 {
		case 0, 2:
			must(s.redis.Kill())
			time.Sleep(100 * time.Millisecond)
			must(s.redis.Start(s.Context()))
		case 1:
			must(s.pair.Audiences[2].Kill())
			must(s.pair.StartServer2(s.Context(), 2))
		case 3:
			must(s.redis.Stall())
			time.Sleep(400 * time.Millisecond)
			must(s.redis.Continue())
		}
	}
}

// backWithin is how long SERVER2 may take to accept tokens again once its Redis
// answers.
const backWithin = 2 * time.Second

// calm waits until the replicas serve again, and has fresh tokens used once each.
func (s *shared) calm(tokens int) {
	s.Helper()
	time.Sleep(backWithin)
	if err := s.pair.Ready(s.Context()); err != nil {
		s.Fatal(err)
	}
	for replica := range 3 {
		_, _ = s.present(replica, "", grpc.WaitForReady(true)) // its connection is there
	}
	var refused atomic.Int64
	var group sync.WaitGroup
	for replica := range 3 {
		group.Go(func() {
			for i := replica; i < tokens; i += 3 {
				if got, err := s.present(replica, s.fresh()); got != accepted {
					refused.Add(1)
					s.Log(err)
				}
			}
		})
	}
	group.Wait()
	s.Logf("after the faults, %d of %d tokens tried once were accepted", int64(tokens)-refused.Load(), tokens)
	if refused.Load()*1000 > int64(tokens) {
		s.Errorf("%d of %d tokens were refused, and nothing was wrong", refused.Load(), tokens)
	}
}

// E03: while Redis stands still, a call is refused soon; when it goes on, so does
// SERVER2.
func TestRedisStandsStill(t *testing.T) {
	const refusedWithin = 250 * time.Millisecond
	s := startShared(t)
	s.calm(3)
	if err := s.redis.Stall(); err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	calls, late := inShort(200, 1000), 0
	for i := range calls {
		token, began := s.fresh(), time.Now()
		got, err := s.present(i%3, token)
		if handoffgrpc.ReasonOf(err) != handoff.ReasonStoreUnavailable {
			t.Errorf("call %d: %d, %v", i, got, err)
		}
		took := time.Since(began)
		slowest = max(slowest, took)
		if took > refusedWithin {
			late++
		}
	}
	if late*100 > calls || slowest > time.Second { // a busy machine may be late itself
		t.Errorf("%d of %d refusals took more than %s, the slowest %s", late, calls, refusedWithin, slowest)
	}
	if err := s.redis.Continue(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for replica := range 3 {
		for got := unknown; got != accepted; got, _ = s.present(replica, s.fresh()) {
			if time.Since(began) > backWithin {
				t.Fatalf("replica %d does not accept %s after Redis went on", replica, time.Since(began))
			}
		}
	}
	t.Logf("%d refusals, %d of them late, the slowest after %s; all replicas accept again %s after Redis went on",
		calls, late, slowest.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// The story of `make cluster` goes as told, and nothing is left.
func TestCluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster := exec.CommandContext(ctx, filepath.Join(bin, "cluster"))
	output, err := cluster.CombinedOutput()
	if err != nil && strings.Contains(string(output), "install Debian's package") && os.Getenv("HANDOFF_CI") == "" {
		t.Skip(strings.TrimSpace(string(output)))
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if told := len(storyLine.FindAll(output, -1)); told != 10 {
		t.Errorf("the story has %d lines:\n%s", told, output)
	}
	for _, pid := range pids(output) {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d still runs", pid)
		}
	}
}
