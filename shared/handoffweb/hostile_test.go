package handoffweb_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/internal/forge"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// The handler has run, and its answer is lost. No page that comes after that says that
// nothing has happened.
func TestJ02ALostAnswerIsNotNothing(t *testing.T) {
	for name, after := range map[string]func(*kit){
		"the list is stale": func(k *kit) { k.set(errors.New("old"), nil) },
		"no store":          func(k *kit) { k.set(nil, errDown) },
		"a full store":      func(k *kit) { k.set(nil, handoff.ErrStoreFull) },
		"the key is gone":   func(k *kit) { k.key = forge.NewKey(handoff.EdDSA) },
		"taken back":        func(k *kit) { k.set(handoff.ErrRevoked, nil) },
		"expired":           func(k *kit) { k.clock.pass(2 * time.Minute) },
		"the clock is back": func(k *kit) { k.clock.pass(-time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			token := k.good(t)
			_, held := k.arrive(t, token.Compact())
			path := "/handoff/" + idOf(token)
			k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...).wants(t, "the answer that is lost", 303)
			after(k)
			for _, a := range []answer{
				k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...),
				k.ask(t, "GET", path, "", cookie(held)...),
				k.ask(t, "POST", "/handoff", handoffForm(token.Compact()), sent(cookie(held)...)...),
			} {
				if strings.Contains(a.body, "Nothing has happened.") {
					t.Errorf("%s %s: the page is wrong:\n%s", a.Request.Method, a.Request.URL.Path, a.body)
				}
			}
		})
	}
}

// J04: what became of a handoff fits into a cookie, for any text.
func TestJ04OutcomesFit(t *testing.T) {
	for _, text := range []string{"<", "&", `"`, `\\`, "\u2028", "é"} {
		k := newKit(t, func(c *handoffweb.LandingConfig) {
			c.Describe = func(handoffweb.Call) handoffweb.Words {
				return handoffweb.Words{Title: strings.Repeat(text, 400), Outcome: strings.Repeat(text, 400)}
			}
		})
		path, held := k.opened(t)
		a := k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...)
		a.wants(t, text, 303)
		ended := a.Cookies()[0]
		// Four of these, and four handoffs of 4,078 bytes, have room in a header of 32 KiB.
		if size := len(ended.Name) + len(ended.Value); size > 3000 {
			t.Errorf("%q: a cookie of %d bytes", text, size)
		}
		k.ask(t, "GET", path, "", cookie(ended)...).wants(t, text, 200, "Done.")
	}
}

// A connection that panics ends no program: the call is one whose end is not known, and
// it can be asked for again.
func TestAPanicOfTheConnection(t *testing.T) {
	k := newKit(t, func(c *handoffweb.LandingConfig) { c.Server = panicking{} })
	path, held := k.opened(t)
	for range 2 {
		k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...).wants(t, "a panic", 503, "not known what happened")
	}
	if e := k.events.last(); e.Refusal == nil || !strings.Contains(e.Refusal.Error(), "no codec") {
		t.Errorf("the log has no cause: %v", e.Refusal)
	}
}

// panicking is a connection with an interceptor that fails.
type panicking struct{ grpc.ClientConnInterface }

func (panicking) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	panic("no codec")
}

// J08: no token is verified before its turn, wherever it comes from.
func TestJ08Turns(t *testing.T) {
	var asked, ended int
	var refusal error
	k := newKit(t, func(c *handoffweb.LandingConfig) {
		c.Admit = func(ctx context.Context) (func(), error) {
			if p, ok := peer.FromContext(ctx); !ok || !strings.HasPrefix(p.Addr.String(), "127.0.0.1:") {
				t.Error("a turn is asked for nobody's network")
			}
			asked++
			return func() { ended++ }, refusal
		}
	})
	path, held := k.opened(t)
	refusal = errors.New("too many wait")
	for name, a := range map[string]answer{
		"arrive":  k.ask(t, "POST", "/handoff", handoffForm("forged"), sent()...),
		"show":    k.ask(t, "GET", path, "", cookie(held)...),
		"confirm": k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...),
	} {
		a.wants(t, name, 503, "too much to do")
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", name)
		}
	}
	k.reason(t, "no turn", handoff.ReasonLimitExceeded, "web.waiting")
	if asked != 4 || ended != 1 {
		t.Errorf("%d turns asked for, %d ended", asked, ended)
	}
}

// J09: a form that stops in the middle is answered, and its connection closed, over
// HTTP/1.1 too, where the server waits for the rest of a body.
func TestJ09SlowForms(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	conn, err := tls.Dial("tcp", k.web.Listener.Addr().String(), k.client.Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /handoff HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\nhandoff=", "billing.example", shop, formType)
	if err := conn.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answered, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("the connection is held: %v", err)
	}
	defer answered.Body.Close()
	if answered.StatusCode != http.StatusBadRequest || !answered.Close {
		t.Errorf("%d, close %t", answered.StatusCode, answered.Close)
	}
}

// What has no shape of its own is shown, though Unicode calls it a letter or a symbol.
func TestInvisibleLettersAreShown(t *testing.T) {
	k := newKit(t)
	for _, r := range "\u034f\u115f\u1160\u17b4\u180b\u2800\u3164\ufe0f\uffa0\U000e0100" {
		token := k.good(t).WithDetails(forge.Object{
			{Name: "type", Value: `"grpc_call"`},
			{Name: "actions", Value: "[" + forge.Quote(server2v1.InvoiceService_PayInvoice_FullMethodName) + "]"},
			{Name: "fields", Value: `{"invoice_id":` + forge.Quote("INV-4"+string(r)+"2") + `}`},
		})
		a, held := k.arrive(t, token.Compact())
		k.ask(t, "GET", a.Header.Get("Location"), "", cookie(held)...).wants(t, "the page", 200, fmt.Sprintf(`INV-4\u{%X}2`, r))
	}
}
