package handoffgrpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// recheckEvery is how often an open stream asks whether its grant still stands,
// beside asking before each message and when its token expires.
const recheckEvery = 500 * time.Millisecond

// stream returns the handler that stands before next, inside the interceptors of
// the server.
//
// The handler gets its request and its grant from its one RecvMsg, which the code
// that protoc-gen-go-grpc generates calls before the service's own method. When
// the token expires or is taken back, or the trust list grows too old, while the
// handler runs, its context is cancelled with the *handoff.Refusal as the cause,
// each later SendMsg fails, and the client is told the refusal's status in the place
// of what the handler returns. That takes half a second at the most. A SendMsg that the
// client's flow control is holding up is not called back.
func (g *Guard) stream(name string, next grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, ss grpc.ServerStream) error {
		c, err := g.Begin(ss.Context(), name)
		if err != nil {
			return err
		}
		return c.Stream(ss, func(ss grpc.ServerStream) error { return next(srv, ss) })
	}
}

// stream is a server-streaming call: it binds the request as it arrives, and ends
// when its grant does.
type stream struct {
	grpc.ServerStream
	call   call
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	state  state
	bound  bool        // RecvMsg has been called
	closed bool        // the handler has returned
	timer  *time.Timer // calls watch, from the grant until close
}

type state struct {
	ctx    context.Context  // the handler's: with the grant, once there is one
	grant  *handoff.Grant   // nil until the token was redeemed
	answer error            // what the client is told, in the place of what the handler returns
	ended  *handoff.Refusal // what answer stands for, where Observe is yet to be told
}

// now returns the state as it is.
func (s *stream) now() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Context returns the handler's context, which carries the grant from the first
// RecvMsg on.
func (s *stream) Context() context.Context { return s.now().ctx }

// RecvMsg reads the request into m, and returns nil if the token was redeemed for
// it. There is one request: a second message ends the stream.
func (s *stream) RecvMsg(m any) error {
	s.mu.Lock()
	first := !s.bound
	s.bound = true
	s.mu.Unlock()
	err := s.ServerStream.RecvMsg(m)
	switch {
	case err != nil:
		return err
	case first:
		return s.begin(m)
	}
	return s.end(misused("a second request"))
}

// SendMsg sends m if the grant still stands.
func (s *stream) SendMsg(m any) error {
	if err := s.recheck(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// begin redeems the token for the request and starts the watch over the grant. If
// Observe panics there is no grant, even if somebody recovers.
func (s *stream) begin(m any) error {
	now := s.now()
	if now.answer != nil { // ended before its request: the token stays unspent
		return now.answer
	}
	grant, refused := s.call.redeem(now.ctx, m)
	var err error
	if grant == nil {
		err = s.call.refuse(now.ctx, refused)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.answer == nil && err != nil {
		s.state.answer = err
		s.cancel(err)
	}
	if s.state.answer != nil {
		return s.state.answer
	}
	s.state.grant = grant
	s.state.ctx = handoff.NewContext(now.ctx, grant)
	if !s.closed {
		s.timer = time.AfterFunc(untilRecheck(grant), s.watch)
	}
	return nil
}

// watch ends the stream when its grant has ended, and comes back if it has not.
func (s *stream) watch() {
	if s.recheck() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.timer.Reset(untilRecheck(s.state.grant))
	}
}

// untilRecheck returns the time to the next recheck: to the token's expiry where
// that comes first. The verifier's clock, not this one, decides what has expired.
func untilRecheck(grant *handoff.Grant) time.Duration {
	if d := time.Until(grant.Expires()); 0 < d && d < recheckEvery {
		return d
	}
	return recheckEvery
}

// recheck returns nil while the grant stands, and else the client's status.
func (s *stream) recheck() error {
	now := s.now()
	switch {
	case now.answer != nil:
		return now.answer
	case now.grant == nil:
		return s.end(misused("a response before the request"))
	}
	if err := s.call.guard.config.Verifier.Recheck(now.ctx, now.grant); err != nil {
		return s.end(refusalOf(err))
	}
	return nil
}

// end ends the stream, and returns the client's status. The first reason stands.
func (s *stream) end(refusal *handoff.Refusal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.answer == nil {
		s.state.ended, s.state.answer = refusal, StatusOf(refusal).Err()
		s.cancel(refusal)
	}
	return s.state.answer
}

// outcome returns what the client is told once the handler has returned err. A
// handler that succeeds without a grant has not read its request: it does not
// succeed.
func (s *stream) outcome(err error) error {
	now := s.now()
	if err == nil && now.grant == nil && now.answer == nil {
		_ = s.end(misused("the handler read no request"))
		now = s.now()
	}
	if now.ended != nil {
		s.call.observe(s.ServerStream.Context(), Event{Grant: now.grant, Refusal: now.ended})
	}
	if now.answer != nil {
		return now.answer
	}
	return err
}

// close stops the watch and frees the context.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.cancel(nil)
}

func misused(detail string) *handoff.Refusal {
	return &handoff.Refusal{Reason: handoff.ReasonRequestUnbindable, Check: "guard.request", Detail: detail}
}
