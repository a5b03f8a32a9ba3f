package handoffweb

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/quota"
	"github.com/handoff-auth/handoff/shared/rule"
)

// exchange is one request and its answer.
type exchange struct {
	*Landing
	w  http.ResponseWriter
	r  *http.Request
	id string // of the handoff; empty until it is known

	step   string
	issuer string          // whose way back is shown; empty: unknown
	claims *handoff.Claims // once the issuer is known to vouch for them
	once   bool            // the method's rule lets nothing run twice
}

// route calls the handler of the request's method.
func (e *exchange) route(handlers map[string]func()) {
	handler, ok := handlers[e.r.Method]
	if !ok {
		e.w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(handlers)), ", "))
		e.fail(http.StatusMethodNotAllowed)
		return
	}
	handler()
}

// passage is a genuine handoff, with all that is needed to show it and to make its
// call.
type passage struct {
	raw     string
	claims  handoff.Claims
	method  *rule.Method
	request proto.Message
}

// read verifies a token and makes the call that it names. It has no side effect.
func (e *exchange) read(raw string) (*passage, error) {
	verified, err := e.verify(raw, e.config.Verifier.Verify)
	if err != nil {
		return nil, err
	}
	p := &passage{raw: raw, claims: verified.Claims()}
	if _, ok := e.config.From[p.claims.Issuer]; !ok {
		return nil, fromNobody()
	}
	if err := showable(p.claims, raw); err != nil {
		return nil, err
	}
	if p.method, err = e.method(p.claims.Method); err != nil {
		return nil, err
	}
	if p.request, err = p.method.Request(p.claims); err != nil {
		return nil, err
	}
	op, err := p.method.Operation(p.request)
	if err != nil {
		return nil, err
	}
	demands, _ := p.method.Rule()
	e.once = !demands.Reusable
	return p, verified.Allows(op, demands)
}

// verify verifies a token as of one kind, when its turn comes.
func (e *exchange) verify(raw string, as func(context.Context, string) (*handoff.Verified, error)) (*handoff.Verified, error) {
	if e.config.Admit != nil {
		done, err := e.config.Admit(quota.WithPeer(e.r))
		if err != nil {
			return nil, &handoff.Refusal{Reason: handoff.ReasonLimitExceeded, Check: "web.waiting", Err: err}
		}
		defer done()
	}
	verified, err := as(e.r.Context(), raw)
	if err != nil {
		e.vouched(refusalOf(err).Claims)
		return nil, err
	}
	claims := verified.Claims()
	e.vouched(&claims)
	return verified, nil
}

func (e *exchange) vouched(c *handoff.Claims) {
	if c == nil {
		return
	}
	e.claims = c
	if e.issuer == "" { // who arrives goes back to where they came from
		e.issuer = c.Issuer
	}
}

// method returns a method that a page can call: one with a rule, and with one
// answer.
func (l *Landing) method(name string) (*rule.Method, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.known[name]
	if m == nil {
		var err error
		if m, err = l.config.Methods.Method(name); err != nil {
			return nil, &handoff.Refusal{Reason: handoff.ReasonRuleMissing, Check: "web.method", Err: err}
		}
		l.known[name] = m
	}
	if _, ok := m.Rule(); !ok {
		return nil, &handoff.Refusal{Reason: handoff.ReasonRuleMissing, Check: "web.method", Detail: "the method carries no rule"}
	}
	if m.NewResponse() == nil {
		return nil, &handoff.Refusal{Reason: handoff.ReasonRequestUnbindable, Check: "web.method", Detail: "the method answers with a stream, which no page shows"}
	}
	return m, nil
}
