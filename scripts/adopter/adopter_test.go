package adopter

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/overload"

	billingv1 "example.com/adopter/proto/billing/v1"
)

// handoffCommand builds the handoff command, as `go install` does for a stranger.
func handoffCommand(t *testing.T) func(args ...string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "handoff")
	build := exec.Command("go", "build", "-o", program, "github.com/handoff-auth/handoff/shared/cmd/handoff")
	build.Dir = filepath.Join("..", "..")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return func(args ...string) {
		t.Helper()
		if output, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("handoff %s: %v: %s", args[0], err, output)
		}
	}
}

func TestPair(t *testing.T) {
	run := handoffCommand(t)
	t.Chdir(t.TempDir())
	run("keygen", "--out", "shop.key")
	run("public", "--key", "shop.key", "--out", "shop.jwks")
	run("devcert", "--out", ".", "--host", "localhost")

	certificate, err := tls.LoadX509KeyPair("server.pem", "server.key")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		ended <- ServeBilling(t.Context(), listener, credentials.NewServerTLSFromCert(&certificate), Billing{Owner: "u-1"})
	}()
	t.Cleanup(func() { // by then the test's context has ended
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	trusting := credentials.NewTLS(trusted(t, "ca.pem"))
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(trusting))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := billingv1.NewBillingClient(conn)

	shop, err := NewShop()
	if err != nil {
		t.Fatal(err)
	}
	user := User{ID: "u-1"}
	user.Session.HandoffID = handoff.NewID()
	req := &billingv1.PayRequest{InvoiceId: "INV-1", Cents: 1200}
	handOff := func(req *billingv1.PayRequest) string {
		raw, err := HandOffPayment(t.Context(), shop, user, req)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}

	// A memory that began just now cannot know what was spent before it.
	if _, reason, _ := Pay(t.Context(), client, req, handOff(req)); reason != handoff.ReasonIssuedBeforeStart {
		t.Errorf("just after the start: %s", reason)
	}
	time.Sleep(handoff.DefaultSkew + 1100*time.Millisecond)

	raw := handOff(req)
	if _, reason, _ := Pay(t.Context(), client, &billingv1.PayRequest{InvoiceId: "INV-1", Cents: 1}, raw); reason != handoff.ReasonFieldMismatch {
		t.Errorf("another amount: %s", reason)
	}
	resp, _, err := Pay(t.Context(), client, &billingv1.PayRequest{InvoiceId: "INV-1", Cents: 1200, Memo: "free"}, raw)
	if err != nil || resp.GetReceiptId() == "" {
		t.Errorf("the payment: %v, %v", resp, err)
	}
	if _, reason, _ := Pay(t.Context(), client, req, raw); reason != handoff.ReasonTokenReplayed {
		t.Errorf("again: %s", reason)
	}
	foreign := &billingv1.PayRequest{InvoiceId: "INV-2", Cents: 1200}
	if _, reason, err := Pay(t.Context(), client, foreign, handOff(foreign)); reason != 0 || status.Code(err) != codes.NotFound {
		t.Errorf("somebody else's invoice: %s, %v", reason, err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health is exempt: %v", err)
	}

	verifier, err := NewVerifier()
	if err != nil {
		t.Fatal(err)
	}
	shedder, err := overload.New(overload.Config{})
	if err != nil {
		t.Fatal(err)
	}
	mux, own, err := BillingPages(verifier, shedder, listener.Addr().String(), trusting)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	req.InvoiceId = "INV-1"
	byBrowser(t, mux, PayAtBilling(shop, func(*http.Request) (User, *billingv1.PayRequest) { return user, req }))
}

// byBrowser takes the same payment through a browser: the click in the shop, and the pages
// of billing.
func byBrowser(t *testing.T, billing, click http.Handler) {
	t.Helper()
	visit := func(to http.Handler, method, path, body string, headers ...string) *http.Response {
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		if method == http.MethodPost {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		w := httptest.NewRecorder()
		to.ServeHTTP(w, r)
		return w.Result()
	}
	text := func(r *http.Response) string {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := visit(click, http.MethodPost, "https://shop.example/pay", "", "Origin", "https://evil.example"); got.StatusCode != http.StatusForbidden {
		t.Errorf("a click on another site: %d", got.StatusCode)
	}
	page := text(visit(click, http.MethodPost, "https://shop.example/pay", "", "Origin", "https://shop.example"))
	token := regexp.MustCompile(`name="handoff" value="([^"]+)"`).FindStringSubmatch(page)
	if token == nil {
		t.Fatalf("the shop's page carries no handoff:\n%s", page)
	}
	arrived := visit(billing, http.MethodPost, "https://billing.example/handoff", "handoff="+token[1], "Origin", "https://shop.example")
	at := "https://billing.example" + arrived.Header.Get("Location")
	if arrived.StatusCode != http.StatusSeeOther || len(arrived.Cookies()) == 0 {
		t.Fatalf("arriving: %d %s", arrived.StatusCode, text(arrived))
	}
	cookie := arrived.Cookies()[0].Name + "=" + arrived.Cookies()[0].Value
	page = text(visit(billing, http.MethodGet, at, "", "Cookie", cookie))
	proof := regexp.MustCompile(`name="handoff-confirm" value="([^"]+)"`).FindStringSubmatch(page)
	if proof == nil || !strings.Contains(page, "INV-1") || !strings.Contains(page, "1200") {
		t.Fatalf("the page does not show what was signed:\n%s", page)
	}
	confirmed := visit(billing, http.MethodPost, at, "handoff-confirm="+proof[1], "Cookie", cookie, "Origin", "https://billing.example")
	if confirmed.StatusCode != http.StatusSeeOther {
		t.Errorf("confirming: %d %s", confirmed.StatusCode, text(confirmed))
	}
	if again := visit(billing, http.MethodPost, "https://billing.example/handoff", "handoff="+token[1], "Origin", "https://evil.example"); again.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %d", again.StatusCode)
	}
}

// The stranger's own service under the kit's attack.
func TestAttack(t *testing.T) {
	server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { billingv1.RegisterBillingServer(s, Billing{Owner: "u-1"}) })
	for method, request := range map[string]proto.Message{
		billingv1.Billing_Pay_FullMethodName:  &billingv1.PayRequest{InvoiceId: "INV-1", Cents: 1200},
		billingv1.Billing_List_FullMethodName: &billingv1.ListRequest{},
	} {
		t.Run(method, func(t *testing.T) {
			handofftest.Attack(t, server.Conn, handofftest.Target{
				Issuer: server.Issuer, Audience: server.Audience, Method: method, Request: request,
			})
		})
	}
}

// The lines of both pages are the lines of this module, without the errors that every Go
// programmer handles in a way of their own.
func TestReadme(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	sources = append(sources, filepath.Join("proto", "billing", "v1", "billing.proto"))
	here := map[string]bool{}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			here[code(line)] = true
		}
	}
	for page, least := range map[string]int{filepath.Join("..", "..", "README.md"): 25, "README.md": 10} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		checked, language := 0, ""
		for line := range strings.Lines(string(text)) {
			if fence, ok := strings.CutPrefix(strings.TrimSpace(line), "```"); ok {
				language = fence
				continue
			}
			if (language != "go" && language != "proto") || code(line) == "" {
				continue
			}
			checked++
			if !here[code(line)] {
				t.Errorf("%s tells strangers to write a line that this module does not have: %s", page, line)
			}
		}
		if checked < least {
			t.Errorf("%d lines of %s were compared", checked, page)
		}
	}
}

// code is a line without its indentation, its comment, and what handles an error.
func code(line string) string {
	line, _, _ = strings.Cut(line, " // ")
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "//") {
		return ""
	}
	line = strings.TrimPrefix(line, "return ")
	line = strings.TrimPrefix(strings.TrimSuffix(line, "; err != nil {"), "if ")
	for _, assign := range []string{" := ", " = "} {
		if _, call, ok := strings.Cut(line, assign); ok && strings.Contains(line[:strings.Index(line, assign)], "err") {
			line = call
		}
	}
	return line
}

// A handler's unit test.
func TestPayOfAnothersInvoice(t *testing.T) {
	req := &billingv1.PayRequest{InvoiceId: "INV-1"}
	ctx := handofftest.Context(t, "u-2", billingv1.Billing_Pay_FullMethodName, req)
	if _, err := (Billing{Owner: "u-1"}).Pay(ctx, req); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}
