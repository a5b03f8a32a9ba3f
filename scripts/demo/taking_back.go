package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// invoice is what the rest of the story looks at: a reusable handoff can be tried
// again and again.
// shown is what see says of a call that ran.
const shown = "INV-42 is shown"

func invoice() *server2v1.GetInvoiceRequest { return &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"} }

// takeBack tells how handoffs end before they expire. SERVER2 learns of it by
// SERVER1's signed trust list only.
func (s *story) takeBack(ctx context.Context) error {
	s.chapter("Taking back: SERVER2 follows SERVER1's signed trust list")

	for _, act := range []struct {
		did string
		end func(session, handoff string) error
	}{
		{"alice revokes a handoff that she has not used", func(session, handoff string) error {
			_, err := s.client.Handoffs.RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: handoff}, pair.Session(session))
			return err
		}},
		{"alice signs out, and her unused handoff is taken back", func(session, _ string) error {
			_, err := s.client.Sessions.SignOut(ctx, &server1v1.SignOutRequest{}, pair.Session(session))
			return err
		}},
		{"alice signs out everywhere from another session", func(string, string) error {
			other, err := s.client.SignIn(ctx, "alice", pair.Password)
			if err != nil {
				return err
			}
			_, err = s.client.Sessions.SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}, pair.Session(other.GetSession()))
			return err
		}},
	} {
		session, handoff, err := s.look(ctx)
		if err != nil {
			return err
		}
		if err := act.end(session, handoff.GetHandoffId()); err != nil {
			return fmt.Errorf("%s: %w", act.did, err)
		}
		s.step(act.did, "TOKEN_REVOKED within a second", within(ctx, s.client, time.Second, "TOKEN_REVOKED", handoff.GetToken()))
	}
	_, handoff, err := s.look(ctx)
	if err != nil {
		return err
	}
	s.step("alice signs in again and hands off at once", shown, see(ctx, s.client, handoff.GetToken()))
	return nil
}

// look signs alice in and hands off a look at her invoice.
func (s *story) look(ctx context.Context) (session string, handoff *handoffv1.IssueHandoffResponse, err error) {
	signedIn, err := s.client.SignIn(ctx, "alice", pair.Password)
	if err != nil {
		return "", nil, fmt.Errorf("alice cannot sign in: %w", err)
	}
	handoff, err = s.client.Issue(ctx, signedIn.GetSession(), pair.Audience, server2v1.InvoiceService_GetInvoice_FullMethodName, invoice(), time.Minute)
	return signedIn.GetSession(), handoff, err
}

// see presents a token, and says what came of it.
func see(ctx context.Context, client *pair.Client, token string) string {
	answer, err := client.Invoices.GetInvoice(ctx, invoice(), handoffgrpc.Token(token))
	if err != nil {
		return outcome(err)
	}
	return answer.GetInvoice().GetInvoiceId() + " is shown"
}

// within presents a token until it has the outcome that is expected.
func within(ctx context.Context, client *pair.Client, patience time.Duration, expected, token string) string {
	return becomes(ctx, patience, expected, func() string { return see(ctx, client, token) })
}

// becomes tries something until it has the outcome that is expected.
func becomes(ctx context.Context, patience time.Duration, expected string, try func() string) string {
	began := time.Now()
	for {
		got := try()
		if got == expected && time.Since(began) <= patience {
			return got + " within " + words(patience)
		}
		if time.Since(began) > patience || ctx.Err() != nil {
			return fmt.Sprintf("%s after %s", got, time.Since(began).Round(time.Millisecond))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func words(d time.Duration) string {
	if d == time.Second {
		return "a second"
	}
	return d.String()
}

// rotate changes SERVER1's signing key while calls go on, and then throws a key
// away.
func (s *story) rotate(ctx context.Context) error {
	s.chapter("A new signing key, while calls go on")

	session, handoff, err := s.look(ctx)
	if err != nil {
		return err
	}
	calls := s.traffic(ctx, session)
	before, err := s.signing(ctx)
	if err != nil {
		return err
	}
	prepared, err := s.pair.Operate(ctx, []string{"keys", "prepare", "--key-dir", s.pair.KeyDir()})
	if err != nil {
		return err
	}
	_, err = s.pair.Operate(ctx, []string{"keys", "activate"}, newKey(prepared))
	s.step("an operator wants the new key to sign before SERVER2 can know it", "too early", refusedStep(err))
	err = slowly(s.out, "waiting until every SERVER2 has heard of the new key", func() error {
		for err != nil {
			time.Sleep(100 * time.Millisecond)
			if _, err = s.pair.Operate(ctx, []string{"keys", "activate"}, newKey(prepared)); err != nil && refusedStep(err) != "too early" {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	after, err := s.awaitKey(ctx, session, newKey(prepared))
	if err != nil {
		return err
	}
	s.step("the new key has been published long enough, and signs", "another key", difference(before, after))
	s.step("calls in the meantime, each with its own handoff", "none refused", calls())

	if _, err := s.pair.Operate(ctx, []string{"keys", "taint"}, before); err != nil {
		return err
	}
	s.step("an operator taints the old key; a token that it signed", "TOKEN_INVALID within a second",
		within(ctx, s.client, time.Second, "TOKEN_INVALID", handoff.GetToken()))
	return nil
}

// traffic makes calls until the function that it returns is called, which says
// how they went.
func (s *story) traffic(ctx context.Context, session string) func() string {
	ctx, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	made, refusals := 0, ""
	group.Go(func() {
		for ctx.Err() == nil {
			handoff, err := s.client.Issue(ctx, session, pair.Audience, server2v1.InvoiceService_GetInvoice_FullMethodName, invoice(), 0)
			if err == nil {
				_, err = s.client.Invoices.GetInvoice(ctx, invoice(), handoffgrpc.Token(handoff.GetToken()))
			}
			if err != nil && ctx.Err() == nil {
				refusals += outcome(err) + " "
			}
			made++
			time.Sleep(10 * time.Millisecond)
		}
	})
	return func() string {
		stop()
		group.Wait()
		if made < 20 {
			return fmt.Sprintf("only %d calls", made)
		}
		if refusals != "" {
			return strings.TrimSpace(refusals)
		}
		return "none refused"
	}
}

// serverGone tells how long SERVER2 relies on a list that nobody renews.
func (s *story) serverGone(ctx context.Context) error {
	s.chapter("SERVER1 stops")

	_, handoff, err := s.look(ctx)
	if err != nil {
		return err
	}
	for _, process := range s.pair.Issuers {
		if err := process.Stop(); err != nil {
			return err
		}
	}
	s.step("SERVER2 goes on without SERVER1", shown, see(ctx, s.first, handoff.GetToken()))
	s.step("SERVER2 can no longer know what was taken back", "TRUST_STALE within "+words(maxStaleness+time.Second),
		within(ctx, s.first, maxStaleness+time.Second, "TRUST_STALE", handoff.GetToken()))
	if err := s.pair.Restart(ctx); err != nil {
		return err
	}
	s.step("SERVER1 runs again", shown+" within a second", within(ctx, s.first, time.Second, shown, handoff.GetToken()))
	return nil
}

// signing returns the id of the key that signs now: a token says it.
func (s *story) signing(ctx context.Context) (string, error) {
	_, handoff, err := s.look(ctx)
	if err != nil {
		return "", err
	}
	return keyOf(handoff.GetToken())
}

// awaitKey hands off until the key signs, and returns the one that did last.
func (s *story) awaitKey(ctx context.Context, session, key string) (string, error) {
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		handoff, err := s.client.Issue(ctx, session, pair.Audience, server2v1.InvoiceService_GetInvoice_FullMethodName, invoice(), 0)
		if err != nil {
			return "", err
		}
		signed, err := keyOf(handoff.GetToken())
		if err != nil || signed == key || time.Since(began) > 3*time.Second {
			return signed, err
		}
	}
}

// keyOf reads a token's header: anyone who holds a token can.
func keyOf(token string) (string, error) {
	encoded, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return "", err
	}
	var header struct {
		Kid string `json:"kid"`
	}
	err = json.Unmarshal(text, &header)
	return header.Kid, err
}

var preparedKey = regexp.MustCompile(`^prepared ([A-Za-z0-9_-]{43}):`)

// newKey is the id of the key that an operator has prepared.
func newKey(printed string) string {
	if found := preparedKey.FindStringSubmatch(printed); found != nil {
		return found[1]
	}
	return printed
}

// refusedStep is what became of an operator's step.
func refusedStep(err error) string {
	switch {
	case err == nil:
		return "done"
	case strings.Contains(err.Error(), "too early: "):
		return "too early"
	}
	return err.Error()
}

func difference(before, after string) string {
	if before == after {
		return "the same key"
	}
	return "another key"
}
