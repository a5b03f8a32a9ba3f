package handoffweb

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/rule"
)

// show is the page of a handoff: what it asks for, or what became of it.
func (e *exchange) show() {
	e.step = "show"
	raw, ended, err := e.held()
	if err == nil {
		err = e.navigates()
	}
	if err == nil && ended == nil {
		err = e.crowded()
	}
	switch {
	case err != nil:
		e.refuse(err)
	case ended != nil:
		if len(e.r.CookiesNamed(cookiePrefix+e.id)) > 0 {
			e.setCookie(cookiePrefix+e.id, "", -1) // it has arrived again
		}
		e.tell(ended)
	default:
		p, err := e.open(raw)
		if err != nil {
			e.refuse(err)
			return
		}
		e.ask(p, url.Values{}, "")
	}
}

// open reads the token of this page's cookie.
func (e *exchange) open(raw string) (*passage, error) {
	p, err := e.read(raw)
	if err != nil {
		e.guess(raw)
		return nil, err
	}
	if p.claims.ID != e.id {
		return nil, &handoff.Refusal{Reason: handoff.ReasonTokenInvalid, Check: "web.cookie", Detail: "the cookie holds another handoff"}
	}
	return p, nil
}

// guess takes the way back from a token that could not be verified, or has become
// void: it leads to a configured address, or nowhere.
func (e *exchange) guess(raw string) {
	if c, err := handoff.UnverifiedClaims(raw); err == nil && e.issuer == "" {
		e.issuer = c.Issuer
	}
}

// confirm makes the call, once a person has said so.
func (e *exchange) confirm() {
	e.step = "confirm"
	raw, ended, err := e.confirmed()
	switch {
	case err != nil:
		e.refuse(err)
		return
	case ended != nil:
		e.redirect() // it was confirmed before: its page tells
		return
	}
	p, err := e.open(raw)
	if err != nil {
		e.refuse(err)
		return
	}
	inputs, fields := p.method.Inputs(p.claims), []string{proofField}
	for _, in := range inputs {
		fields = append(fields, in.Path)
	}
	form, err := e.form(fields...)
	if err == nil {
		err = shownHere(form.Get(proofField), raw)
	}
	if err != nil {
		e.refuse(err)
		return
	}
	request, err := fill(p, inputs, form)
	if err != nil {
		e.ask(p, form, "One of the values cannot be read. Please correct it.")
		return
	}
	e.conclude(p, request)
}

func (e *exchange) confirmed() (raw string, ended *outcome, err error) {
	if err := e.navigates(); err != nil {
		return "", nil, err
	}
	if err := e.confirmsHere(); err != nil {
		return "", nil, err
	}
	return e.held()
}

// shownHere demands that the form is that of the page which showed this token. A script
// on the origin may find a page without these pages' headers, an error of the HTTP
// server for instance, and post a form from there as if it were ours.
func shownHere(proof, raw string) error {
	if subtle.ConstantTimeCompare([]byte(proof), []byte(proofOf(raw))) != 1 {
		return notFrom("the form is not that of the page which showed the handoff")
	}
	return nil
}

// fill returns the request with what the person has filled in. What they leave
// empty stays unset.
func fill(p *passage, inputs []rule.Input, form url.Values) (proto.Message, error) {
	c := p.claims
	c.Fields = slices.Clone(c.Fields)
	for _, in := range inputs {
		text := form.Get(in.Path)
		if in.Field.Kind() != protoreflect.StringKind {
			text = strings.TrimSpace(text)
		}
		if text == "" || !in.Field.HasPresence() && text == zero(in.Field) {
			continue
		}
		c.Fields = append(c.Fields, handoff.Field{Path: in.Path, Value: text})
	}
	return p.method.Request(c)
}

// zero is the text of a field's default value, where that is no value of its own.
func zero(field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return "false"
	case protoreflect.EnumKind:
		return strconv.Itoa(int(field.Default().Enum()))
	case protoreflect.StringKind:
		return ""
	}
	return "0"
}

// conclude makes the call and tells what became of it.
func (e *exchange) conclude(p *passage, request proto.Message) {
	response, err := e.call(p, request)
	if e.r.Context().Err() != nil {
		return // nobody is there: the page, when it is asked for again, will tell
	}
	call := Call{Method: p.claims.Method, Request: request, Issuer: p.claims.Issuer, Subject: p.claims.Subject, Response: response, Err: err}
	o := outcome{Issuer: p.claims.Issuer, Title: e.words(call).Title, Text: e.words(call).Outcome}
	switch reason := handoffgrpc.ReasonOf(err); {
	case err == nil:
		o.State = done
	case reason == handoff.ReasonTokenReplayed || reason == handoff.ReasonIssuedBeforeStart:
		o.State, o.Text = unsure, sentences[reason].text
	case reason != 0:
		e.refuse(&handoff.Refusal{Reason: reason, Check: "web.call", Err: err})
		return
	case !declines(status.Code(err)):
		e.refuse(&handoff.Refusal{Check: "web.call", Err: err})
		return
	default:
		o.State = nothing
	}
	e.keepOutcome(o)
	e.redirect()
}

// declines reports whether a handler that answers with this code has done nothing.
// The other codes are also those of a call that was cut off, or of an answer that was
// too large to be sent.
func declines(code codes.Code) bool {
	switch code {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.FailedPrecondition,
		codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated:
		return true
	}
	return false
}

// callTime is how long a call may take.
const callTime = 30 * time.Second

// flight is a call under way. A second confirmation of the same request, as a double
// click sends it, gets its answer.
type flight struct {
	request  proto.Message
	landed   chan struct{}
	response proto.Message
	err      error
}

// call makes the call. It goes on when the browser has left: what a person has
// confirmed does not depend on who waits for the answer.
func (e *exchange) call(p *passage, request proto.Message) (proto.Message, error) {
	for {
		f, mine := e.board(p, request)
		if mine {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(e.r.Context()), callTime)
			go func() {
				defer cancel()
				defer e.leave(p, f)
				f.err = e.invoke(ctx, p, request, f.response)
			}()
		}
		select {
		case <-f.landed:
		case <-e.r.Context().Done():
			return nil, e.r.Context().Err()
		}
		if mine || proto.Equal(f.request, request) {
			return answerOf(f)
		}
	}
}

// invoke sends the call with its token. A panic is an error: in a goroutine of its own
// nothing else would recover it.
func (e *exchange) invoke(ctx context.Context, p *passage, request, response proto.Message) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("the connection panicked: %v\n%s", panicked, debug.Stack())
		}
	}()
	token := metadata.Pairs("authorization", "Bearer "+p.raw)
	if e.config.Metadata == "handoff-token" {
		token = metadata.Pairs(e.config.Metadata, p.raw)
	}
	ctx = metadata.NewOutgoingContext(ctx, token)
	return e.config.Server.Invoke(ctx, p.claims.Method, request, response)
}

func answerOf(f *flight) (proto.Message, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.response, nil
}

// board returns the call of this handoff that is under way, or else a new one.
func (e *exchange) board(p *passage, request proto.Message) (f *flight, mine bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := p.claims.Issuer + " " + p.claims.ID
	if f := e.flights[key]; f != nil {
		return f, false
	}
	f = &flight{request: request, landed: make(chan struct{}), response: p.method.NewResponse()}
	e.flights[key] = f
	return f, true
}

func (e *exchange) leave(p *passage, f *flight) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.flights, p.claims.Issuer+" "+p.claims.ID)
	close(f.landed)
}

// ask shows what the handoff asks for.
func (e *exchange) ask(p *passage, filled url.Values, fault string) {
	words := e.words(Call{Method: p.claims.Method, Request: p.request, Issuer: p.claims.Issuer, Subject: p.claims.Subject})
	left := seconds(p.claims.Expires.Sub(e.config.Now()))
	page := e.page(words.Title)
	page.Action, page.Proof = landingPath+"/"+e.id, proofInput(p.raw)
	page.Rows, page.Signed = words.Rows, fieldsOf(p.request)
	page.Confirm = words.Confirm
	page.Subject = visible(p.claims.Subject)
	page.Until, page.Left = p.claims.Expires, left
	page.Fault = fault
	for _, in := range p.method.Inputs(p.claims) {
		page.Inputs = append(page.Inputs, shown(in, filled.Get(in.Path)))
	}
	code := http.StatusOK
	if fault != "" {
		code = http.StatusBadRequest
	}
	e.w.Header().Set("Refresh", strconv.Itoa(left)) // the page says by itself that it has expired
	e.write(code, "confirm", page, nil)
}

// tell shows what became of the handoff.
func (e *exchange) tell(o *outcome) {
	e.issuer = o.Issuer
	page := e.page(o.Title)
	page.State, page.Text = string(o.State), o.Text
	e.write(http.StatusOK, "outcome", page, nil)
}

// refuse shows why it does not go on.
func (e *exchange) refuse(err error) {
	refusal := refusalOf(err)
	code, s := e.answerTo(refusal)
	page := e.page(s.title)
	page.Text, page.State = s.text, string(s.state)
	if refusal.Check == "web.browser" || refusal.Check == "web.form" {
		page.Detail = refusal.Detail // a fixed text: it names what has to be mended
	}
	if s.again && e.id != "" && e.step != "arrive" {
		page.Again = landingPath + "/" + e.id
	}
	if code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests {
		e.w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	e.write(code, "refused", page, refusal)
}

// retryAfter is in how many seconds what is short of something may have it again.
const retryAfter = 5

// fail answers what is no request of the routes.
func (e *exchange) fail(code int) {
	page := e.page("There is no such page")
	page.Text, page.State = "The address or the kind of request is none that is answered here.", string(nothing)
	e.write(code, "refused", page, &handoff.Refusal{Check: "web.browser", Detail: "no such address or method"})
}
