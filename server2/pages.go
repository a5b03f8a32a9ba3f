package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/server2/internal/app"
	"github.com/handoff-auth/handoff/server2/internal/invoices"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/handoffweb/rpc"
	"github.com/handoff-auth/handoff/shared/serving"
)

// pages are what a person sees whom SERVER1 has redirected here.
type pages struct {
	landing *handoffweb.Landing
	app     http.Handler     // nil: there is no application
	calls   *rpc.Handler     // the application's; nil likewise
	conn    *grpc.ClientConn // into this server
	https   *serving.HTTPS
}

const (
	// maxPageHeader is how large a browser's header can be: four handoffs that are open,
	// four that are done, a visit, and the rest.
	maxPageHeader = 36 << 10
	// maxPageRequests is how many requests a browser can have under way: all tabs share a
	// connection, and each that shows the application holds one.
	maxPageRequests = 32
)

// pages returns the pages with their port open, or nil where none are asked for. They
// show what the guard has its rules for: guarded comes first.
func (r *parts) pages(server *serving.Server) (*pages, error) {
	c, log := r.serveCommand, r.log
	for setting, value := range map[string]string{"http": c.HTTP, "issuer-origin": c.IssuerOrigin, "issuer-return": c.IssuerReturn} {
		if (value == "") != (c.HTTP == "") {
			if c.HTTP == "" {
				return nil, wrong(setting, errors.New("is of use only with --http"))
			}
			return nil, wrong(setting, errors.New("is required with --http"))
		}
	}
	switch {
	case c.IssuerVisit != "" && c.HTTP == "":
		return nil, wrong("issuer-visit", errors.New("is of use only with --http"))
	case c.IssuerVisit != "" && c.TrustKey == nil:
		return nil, wrong("issuer-visit", errors.New("needs --trust-key: without a trust list nothing could end a visit"))
	case c.HTTP == "":
		return nil, nil
	}
	conn, err := server.Conn()
	if err != nil {
		return nil, err
	}
	landing, err := handoffweb.NewLanding(handoffweb.LandingConfig{
		Verifier: r.verifier,
		Server:   conn,
		Admit:    r.shedder.Admit,
		Methods:  r.rules,
		From:     map[string]handoffweb.Origin{c.Issuer: {Origin: c.IssuerOrigin, Return: c.IssuerReturn, Visit: c.IssuerVisit}},
		App:      c.app(),
		Describe: invoices.Describe,
		Observe:  shown{log}.observe,
	})
	if err != nil {
		return nil, errors.Join(serving.Named(err, fields), conn.Close())
	}
	https, err := server.HTTPS(serving.HTTPSConfig{Setting: "http", Address: c.HTTP, HeaderBytes: maxPageHeader, Requests: maxPageRequests})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	site := &pages{landing: landing, conn: conn, https: https}
	if c.app() == "" {
		return site, nil
	}
	site.app = app.Handler()
	site.calls, err = rpc.New(rpc.Config{Connect: server.Conn, Verifier: r.verifier, Admit: r.shedder.Admit, Methods: r.rules, Observe: shown{log}.refused})
	if err != nil {
		return nil, errors.Join(err, site.close())
	}
	return site, nil
}

// ServeHTTP answers with a page, a part of the application, or one of its calls. Paths
// are compared as they are: nobody is redirected to another spelling.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case p.app != nil && strings.HasPrefix(r.URL.Path, "/app/"):
		p.app.ServeHTTP(w, r)
	case p.app != nil && strings.HasPrefix(r.URL.Path, callsPath+"/"):
		http.StripPrefix(callsPath, p.calls).ServeHTTP(w, r)
	default:
		p.landing.ServeHTTP(w, r)
	}
}

const callsPath = "/rpc"

// app is the path of the application that a visit leads to; empty: there is none.
func (c *serveCommand) app() string {
	if c.IssuerVisit == "" {
		return ""
	}
	return "/app/"
}

// close closes what has been opened.
func (p *pages) close() error {
	_ = p.https.Close() // Run has closed it, if it ran
	if p.calls == nil {
		return p.conn.Close()
	}
	return errors.Join(p.calls.Close(), p.conn.Close())
}

// beside runs the server with the pages beside it, until ctx is done or one of them
// fails. The pages end first: a call that they have begun is still answered.
func (p *pages) beside(ctx context.Context, server func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if p.calls != nil {
		defer context.AfterFunc(ctx, p.calls.Drain)()
	}
	ended := make(chan error, 1)
	go func() {
		err := p.https.Run(ctx, p)
		if err != nil {
			stop()
		}
		ended <- err
	}()
	err := server(ctx)
	stop()
	return errors.Join(err, <-ended)
}

// shown is the log of the pages. The calls that they make are in the audit.
type shown struct{ log *slog.Logger }

// observe logs an answer: what concerns a genuine handoff as usual, and what anybody
// can ask for only to those who debug. Of equal lines few are written, as
// serving.Sampled says: who has a handoff can ask for its page without end.
func (s shown) observe(ctx context.Context, e handoffweb.Event) {
	level, outcome := slog.LevelDebug, "answered"
	if e.Refusal != nil {
		outcome = "refused"
	}
	fields := []any{"step", e.Step, "status", e.Status, "outcome", outcome}
	if e.ID != "" {
		level = slog.LevelInfo
		fields = append(fields, "iss", e.Issuer, "sub", e.Subject, "jti", e.ID)
	}
	if r := e.Refusal; r != nil {
		fields = append(fields, "reason", r.Reason.String(), "check", string(r.Check), "cause", r.Error())
	}
	s.log.Log(ctx, level, "page", fields...)
}

// refused logs a call of the application's that did not come as far as the guard.
// Anybody can make one.
func (s shown) refused(ctx context.Context, e rpc.Event) {
	s.log.DebugContext(ctx, "call", "outcome", "refused", "method", e.Method, "reason", e.Refusal.Reason.String(), "check", string(e.Refusal.Check), "cause", e.Refusal.Error())
}
