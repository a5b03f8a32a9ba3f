package browser

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// controls is what the story asks for outside of a browser.
type controls struct {
	pair   *pair.Pair
	client *pair.Client

	mu       sync.Mutex
	sessions map[string]string // by user: a password's hash takes a second
}

func newControls(t *testing.T, p *pair.Pair) http.Handler {
	client, err := p.Dial()
	if err != nil {
		t.Fatal(err)
	}
	c := &controls{pair: p, client: client, sessions: map[string]string{}}
	t.Cleanup(client.Close)
	mux := http.NewServeMux()
	for path, act := range map[string]func(*http.Request) (any, error){
		"/stop-shop": func(*http.Request) (any, error) { return "stopped", p.Server1.Stop() },
		"/start-shop": func(r *http.Request) (any, error) {
			return "started", p.StartServer1(context.WithoutCancel(r.Context()))
		},
		"/restart-billing": func(r *http.Request) (any, error) {
			return "restarted", errors.Join(p.Server2.Stop(), p.StartServer2(context.WithoutCancel(r.Context()), 0))
		},
		"/token": c.token,
		"/visit": c.visit,
		"/refused-calls": func(*http.Request) (any, error) { // of those that the log's sampling leaves
			log, err := os.ReadFile(p.Server2.Log)
			return strings.Count(string(log), `"check":"rpc.browser"`), err
		},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			value, err := act(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(w).Encode(value)
		})
	}
	return mux
}

func (c *controls) session(ctx context.Context, user string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions[user] == "" {
		signedIn, err := c.client.SignIn(ctx, user, pair.Password)
		if err != nil {
			return "", err
		}
		c.sessions[user] = signedIn.GetSession()
	}
	return c.sessions[user], nil
}

// token returns a genuine token of a kind that the shop's pages do not make.
func (c *controls) token(r *http.Request) (any, error) {
	request := &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-43", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 9900}, RequestId: pair.NewRequestID(),
	}
	audience, method, of := pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, proto.Message(request)
	lifetime := time.Duration(0) // SERVER1's
	kind := r.FormValue("kind")
	switch kind {
	case "pay", "too large":
	case "a short life":
		lifetime = 45 * time.Second
	case "another audience":
		audience = pair.OtherAudience
	case "a digest":
		request.InvoiceId = strings.Repeat("x", 2000)
	case "a stream":
		method, of = server2v1.InvoiceService_ExportPayments_FullMethodName, &server2v1.ExportPaymentsRequest{}
	default:
		return nil, fmt.Errorf("no kind %q", kind)
	}
	session, err := c.session(r.Context(), r.FormValue("user"))
	if err != nil {
		return nil, err
	}
	issued, err := c.client.Issue(r.Context(), session, audience, method, of, lifetime)
	if err != nil || kind != "too large" {
		return issued.GetToken(), err
	}
	return c.padded(r.Context(), issued.GetToken())
}

// visit returns a visit that lasts for some seconds.
func (c *controls) visit(r *http.Request) (any, error) {
	session, err := c.session(r.Context(), r.FormValue("user"))
	if err != nil {
		return nil, err
	}
	lifetime, err := time.ParseDuration(r.FormValue("lifetime"))
	if err != nil {
		return nil, err
	}
	issued, err := c.client.Handoffs.IssueVisit(r.Context(), &handoffv1.IssueVisitRequest{
		Audience: pair.Audience, Lifetime: durationpb.New(lifetime),
	}, pair.Session(session))
	return issued.GetToken(), err
}

// padded signs the token's claims again with so many spaces that the token is one
// that a verifier takes, and no cookie holds.
func (c *controls) padded(ctx context.Context, raw string) (string, error) {
	parts := strings.Split(raw, ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", err
	}
	var header struct {
		KeyID string `json:"kid"`
	}
	if err := json.NewDecoder(base64.NewDecoder(base64.RawURLEncoding, strings.NewReader(parts[0]))).Decode(&header); err != nil {
		return "", err
	}
	key, err := signkey.Load(filepath.Join(c.pair.KeyDir(), header.KeyID+".key"))
	if err != nil {
		return "", err
	}
	for {
		claims = append(claims, ' ')
		padded, err := handoff.Profile{Typ: "handoff+jwt", MaxLength: 4096}.Seal(ctx, claims, key)
		if err != nil || len(padded) > 4060 {
			return padded, err
		}
	}
}
