package handoffweb_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/replay"
)

// The two sides of a redirect: SERVER1's page that sends, and SERVER2's pages. A test of
// one's own does what a browser does, as here.
func Example() {
	testing.Init()
	test := testing.InternalTest{Name: "TestPay", F: func(t *testing.T) {
		server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { server2v1.RegisterInvoiceServiceServer(s, &invoices{}) })
		verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
			Audience: server.Audience,
			Issuers:  map[string]handoff.KeySource{server.Issuer.Name(): server.Issuer.Keys()},
			Store:    replay.NewMemory(replay.Config{}),
		})
		if err != nil {
			t.Fatal(err)
		}
		landing, err := handoffweb.NewLanding(handoffweb.LandingConfig{
			Verifier: verifier, Server: server.Conn,
			From: map[string]handoffweb.Origin{server.Issuer.Name(): {Origin: "https://shop.example", Return: "https://shop.example/orders/"}},
		})
		if err != nil {
			t.Fatal(err)
		}

		raw := server.Issuer.Token(t, server.Audience, "u-1", server2v1.InvoiceService_PayInvoice_FullMethodName, pay())
		sent := httptest.NewRecorder() // SERVER1's answer to the click
		if err := handoffweb.Send(sent, handoffweb.Passage{Token: raw, To: "https://billing.example"}); err != nil {
			t.Fatal(err)
		}
		fmt.Println(sent.Code, strings.Contains(sent.Body.String(), `action="https://billing.example/handoff"`))

		post := httptest.NewRequest("POST", "https://billing.example/handoff", strings.NewReader(url.Values{"handoff": {raw}}.Encode()))
		post.Header.Set("Origin", "https://shop.example")
		post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		arrived := httptest.NewRecorder()
		landing.ServeHTTP(arrived, post)
		page := arrived.Header().Get("Location")
		fmt.Println(arrived.Code, len(page))

		show := httptest.NewRequest("GET", "https://billing.example"+page, http.NoBody)
		show.AddCookie(arrived.Result().Cookies()[0])
		shown := httptest.NewRecorder()
		landing.ServeHTTP(shown, show)
		fmt.Println(shown.Code, strings.Contains(shown.Body.String(), "INV-42"))

		// Only the confirmation spends the handoff: now it is good for one call, by any way.
		_, err = server2v1.NewInvoiceServiceClient(server.Conn).PayInvoice(context.Background(), pay(), handoffgrpc.Token(raw))
		fmt.Println(err)
	}}
	testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{test})
	// Output:
	// 200 true
	// 303 31
	// 200 true
	// <nil>
}
