package handoffweb_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	shop    = "https://shop.example"
	other   = "https://other.example" // trusted, but not by browser
	billing = "https://billing.example"
	alice   = "user-1"
	back    = "https://shop.example/orders/"
)

// kit is a SERVER2 whose users come by browser, and a shop's key.
type kit struct {
	key      *forge.Key
	clock    *clock
	invoices *invoices
	web      *httptest.Server
	client   *http.Client
	events   *events

	mu      sync.Mutex
	revoked error // what the trust list says of every token
	spent   map[string]bool
	storage error // what the store answers, if not nil
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

type events struct {
	mu  sync.Mutex
	all []handoffweb.Event
}

func (e *events) add(_ context.Context, event handoffweb.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event)
}

func (e *events) last() handoffweb.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.all) == 0 {
		return handoffweb.Event{}
	}
	return e.all[len(e.all)-1]
}

// invoices is a service that counts its payments.
type invoices struct {
	server2v1.UnimplementedInvoiceServiceServer
	mu   sync.Mutex
	paid []*server2v1.PayInvoiceRequest
	by   []string
	err  error
	hold chan struct{} // if set, a payment waits for it
}

func (s *invoices) PayInvoice(ctx context.Context, req *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	grant, _ := handoff.FromContext(ctx)
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	s.paid, s.by = append(s.paid, req), append(s.by, grant.Subject())
	return &server2v1.PayInvoiceResponse{Payment: &server2v1.Payment{PaymentId: "P-1", InvoiceId: req.GetInvoiceId(), Memo: req.GetMemo()}}, nil
}

func (s *invoices) payments() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.paid)
}

func (k *kit) Key(_ context.Context, kid string) (handoff.Key, error) {
	if kid != k.key.Public.ID() {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return k.key.Public.WithRevocations(k), nil
}

func (k *kit) Revoked(context.Context, *handoff.Claims) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.revoked
}

func (k *kit) Redeem(_ context.Context, r handoff.Redemption) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.storage != nil {
		return k.storage
	}
	if k.spent[r.ID] {
		return handoff.ErrReplayed
	}
	k.spent[r.ID] = true
	return nil
}

func (k *kit) set(revoked, storage error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revoked, k.storage = revoked, storage
}

func newKit(t *testing.T, change ...func(*handoffweb.LandingConfig)) *kit {
	t.Helper()
	k := &kit{
		key: forge.NewKey(handoff.EdDSA), clock: &clock{at: time.Now()}, invoices: &invoices{}, events: &events{},
		spent: map[string]bool{},
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{shop: k, other: k}, Store: k, Now: k.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	config := handoffweb.LandingConfig{
		Verifier: verifier, Server: k.serve(t, verifier), Now: k.clock.now, Observe: k.events.add,
		From: map[string]handoffweb.Origin{shop: {Origin: shop, Return: back}, "https://third.example": {Origin: "https://third.example", Return: "https://third.example/x?id="}},
	}
	for _, change := range change {
		change(&config)
	}
	landing, err := handoffweb.NewLanding(config)
	if err != nil {
		t.Fatal(err)
	}
	k.web = httptest.NewUnstartedServer(landing)
	k.web.EnableHTTP2 = true
	k.web.StartTLS()
	t.Cleanup(k.web.Close)
	k.client = k.web.Client()
	k.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return k
}

// serve starts the guarded gRPC server, and returns a connection into it.
func (k *kit) serve(t *testing.T, verifier *handoff.Verifier) *grpc.ClientConn {
	t.Helper()
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	server2v1.RegisterInvoiceServiceServer(guard.On(server), k.invoices)
	if err := guard.Check(server); err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); server.Stop() })
	return conn
}

func pay() *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: "6f9619ff-8b86-4011-b42d-00c04fc964ff",
	}
}

// good is a handoff for paying INV-42.
func (k *kit) good(t *testing.T) forge.Token {
	t.Helper()
	op, err := rule.Operation(server2v1.InvoiceService_PayInvoice_FullMethodName, pay())
	if err != nil {
		t.Fatal(err)
	}
	return forge.Good(forge.Params{
		Key: k.key, Issuer: shop, Audience: billing, Subject: alice, Operation: op, IssuedAt: k.clock.now(), Lifetime: time.Minute,
	})
}

func idOf(token forge.Token) string { return strings.Trim(token.Payload.Get("jti"), `"`) }

// answer is what came back.
type answer struct {
	*http.Response
	body string
}

// ask sends a request with exactly these headers, and takes its answer.
func (k *kit) ask(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, k.web.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		r.Body = http.NoBody
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Add(headers[i], headers[i+1])
		}
	}
	response, err := k.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response, string(text)}
}

const formType = "application/x-www-form-urlencoded"

// sent is the headers of a browser that posts the shop's form.
func sent(more ...string) []string {
	return append([]string{
		"Origin", shop, "Content-Type", formType,
		"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document",
	}, more...)
}

// here is the headers of a browser on the confirm page.
func (k *kit) here(more ...string) []string {
	return append([]string{
		"Origin", k.web.URL, "Content-Type", formType,
		"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-User", "?1",
	}, more...)
}

func with(headers []string, name, value string) []string {
	headers = append([]string{}, headers...)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == name {
			headers[i+1] = value
			return headers
		}
	}
	return append(headers, name, value)
}

func without(headers []string, names ...string) (rest []string) {
	for i := 0; i < len(headers); i += 2 {
		keep := true
		for _, name := range names {
			keep = keep && headers[i] != name
		}
		if keep {
			rest = append(rest, headers[i], headers[i+1])
		}
	}
	return rest
}

func handoffForm(raw string) string { return url.Values{"handoff": {raw}}.Encode() }

// arrive brings a token, and returns its cookie.
func (k *kit) arrive(t *testing.T, raw string, more ...string) (answer, *http.Cookie) {
	t.Helper()
	a := k.ask(t, "POST", "/handoff", handoffForm(raw), sent(more...)...)
	for _, c := range a.Cookies() {
		if c.MaxAge > 0 {
			return a, c
		}
	}
	return a, nil
}

func cookie(c *http.Cookie) []string { return []string{"Cookie", c.Name + "=" + c.Value} }

// proven is the form of the confirm page that shows the handoff of this cookie.
func proven(c *http.Cookie, fields string) string {
	return strings.TrimSuffix("handoff-confirm="+digest("handoff-confirm"+c.Value)+"&"+fields, "&")
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// opened is a handoff that has arrived: the path of its page, and its cookie.
func (k *kit) opened(t *testing.T) (path string, c *http.Cookie) {
	t.Helper()
	a, c := k.arrive(t, k.good(t).Compact())
	if a.StatusCode != 303 || c == nil {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	return a.Header.Get("Location"), c
}

// wants holds an answer to its status and to what its page says.
func (a answer) wants(t *testing.T, what string, code int, texts ...string) {
	t.Helper()
	if a.StatusCode != code {
		t.Errorf("%s: %d, want %d\n%s", what, a.StatusCode, code, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			t.Errorf("%s: the page has no %q:\n%s", what, text, a.body)
		}
	}
}

// reason holds the last event to a reason, and returns the event.
func (k *kit) reason(t *testing.T, what string, want handoff.Reason, check handoff.Check) handoffweb.Event {
	t.Helper()
	e := k.events.last()
	if e.Refusal == nil {
		t.Errorf("%s: not refused", what)
	} else if e.Refusal.Reason != want || check != "" && e.Refusal.Check != check {
		t.Errorf("%s: refused for %v, want %v (%s)", what, e.Refusal, want, check)
	}
	return e
}

var errDown = errors.New("the store is down")

// styleIn returns the CSP source of the one stylesheet in a page.
func styleIn(t *testing.T, body string) string {
	t.Helper()
	found := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllStringSubmatch(body, -1)
	if len(found) != 1 {
		t.Fatalf("%d stylesheets", len(found))
	}
	sum := sha256.Sum256([]byte(found[0][1]))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// padded returns the token in exactly so many bytes: JSON may have spaces.
func padded(t *testing.T, token forge.Token, length int) string {
	t.Helper()
	for header := range 4 {
		for spaces := 0; ; spaces++ {
			raw := token.Text(token.Header.String()+strings.Repeat(" ", header), token.Payload.String()+strings.Repeat(" ", spaces))
			if len(raw) == length {
				return raw
			}
			if len(raw) > length {
				break
			}
		}
	}
	t.Fatalf("no token of %d bytes", length)
	return ""
}

// noServer is a connection that nobody uses.
type noServer struct{ grpc.ClientConnInterface }

func emptyTemplates() *template.Template { return template.Must(template.New("").Parse("")) }
