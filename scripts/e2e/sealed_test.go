package e2e

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/sealed"
)

// payTo returns a request to pay one of alice's invoices.
func payTo(invoice string, minorUnits int64) *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: invoice, Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: minorUnits}, RequestId: pair.NewRequestID(),
	}
}

// sealedTo asks for handoffs until SERVER1 has read its policy again and seals to the
// key with this id, or, where that is empty, seals no longer.
func sealedTo(t *testing.T, client *pair.Client, session, kid string, request *server2v1.PayInvoiceRequest) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		issued, err := client.Issue(ctx, session, pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, request, 0)
		if err != nil {
			t.Fatal(err)
		}
		raw := issued.GetToken()
		if kid == "" && !sealed.Is(raw) || kid != "" && sealed.Is(raw) && strings.Contains(headerOf(t, raw), `"`+kid+`"`) {
			return raw
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// headerOf returns the text of a token's header.
func headerOf(t *testing.T, raw string) string {
	t.Helper()
	header, _, _ := strings.Cut(raw, ".")
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func keyID(t *testing.T, file string) string {
	t.Helper()
	keys, err := sealed.LoadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	return keys[0].ID()
}

// Sealed tokens between real processes: while SERVER2's key changes, what is sealed to
// the old one and to the new one runs, and what is sealed to a third does not.
func TestSealedWhileTheKeyChanges(t *testing.T) {
	t.Parallel()
	var second string
	p := trusting(t, pair.Config{Audience: func(int) []string {
		if second == "" {
			return nil
		}
		return []string{"--unseal-key", second}
	}})
	client, err := p.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	signedIn, err := client.SignIn(t.Context(), "alice", pair.Password)
	if err != nil {
		t.Fatal(err)
	}
	session := signedIn.GetSession()
	private, public, err := p.NewUnsealKey(t.Context(), "second")
	if err != nil {
		t.Fatal(err)
	}
	_, third, err := p.NewUnsealKey(t.Context(), "third")
	if err != nil {
		t.Fatal(err)
	}

	// SERVER2 is given both keys, and starts again, where it was.
	second = private
	if err := p.Server2.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file, invoice string
		minorUnits          int64
		want                handoff.Reason
	}{
		{"the old key", p.SealKey(), "INV-42", 1200, 0},
		{"the new key", public, "INV-44", 500, 0},
		{"a third", third, "INV-46", 700, handoff.ReasonTokenInvalid},
	} {
		if err := p.SealTo(t.Context(), c.file); err != nil {
			t.Fatal(err)
		}
		request := payTo(c.invoice, c.minorUnits)
		raw := sealedTo(t, client, session, keyID(t, c.file), request)
		if strings.Contains(raw, c.invoice) {
			t.Errorf("%s: the token can be read", c.name)
		}
		_, err := client.Invoices.PayInvoice(t.Context(), request, handoffgrpc.Token(raw))
		if handoffgrpc.ReasonOf(err) != c.want || (err == nil) != (c.want == 0) {
			t.Errorf("sealed to %s: %v", c.name, err)
		}
	}
	if err := p.Seal(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	request := payTo("INV-47", 300)
	if _, err := client.Invoices.PayInvoice(t.Context(), request, handoffgrpc.Token(sealedTo(t, client, session, "", request))); err != nil {
		t.Errorf("not sealed: %v", err)
	}
}

// A sealed token goes through the page, the form and the cookie as any other: the
// person is shown what SERVER2 has opened.
func TestSealedByBrowser(t *testing.T) {
	t.Parallel()
	p := trusting(t, pair.Config{})
	if err := p.Seal(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	client, err := p.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	signedIn, err := client.SignIn(t.Context(), "alice", pair.Password)
	if err != nil {
		t.Fatal(err)
	}
	sealedTo(t, client, signedIn.GetSession(), keyID(t, p.SealKey()), payTo("INV-42", 1200))
	a := newPerson(t, p, "alice")
	sent, confirm := a.click("INV-42")
	if raw := tokenInForm.FindStringSubmatch(sent.Body)[1]; !sealed.Is(raw) {
		t.Errorf("the form has %d dots in its token", strings.Count(raw, "."))
	}
	a.want(confirm, http.StatusOK, "Pay invoice INV-42: 12.00 EUR")
	a.want(a.must(confirm.Submit(t.Context(), "Pay ")), http.StatusOK, "Invoice INV-42 is paid")
}

// G17: between real processes, a handoff that is bound to one client's certificate is
// of no use to another client, with any certificate.
func TestG17BoundToItsClient(t *testing.T) {
	t.Parallel()
	p := trusting(t, pair.Config{})
	certificate, err := pair.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	other, err := pair.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	dial := func(client *pair.Client, err error) *pair.Client {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	own := dial(pair.DialAs(p.Server1.Address, p.Server2.Address, p.CA, certificate))
	thief := dial(pair.DialAs(p.Server1.Address, p.Server2.Address, p.CA, other))
	plain := dial(p.Dial())
	signedIn, err := own.SignIn(t.Context(), "alice", pair.Password)
	if err != nil {
		t.Fatal(err)
	}
	request := payTo("INV-42", 1200)
	packed, err := anypb.New(request)
	if err != nil {
		t.Fatal(err)
	}
	ask := &handoffv1.IssueHandoffRequest{
		Audience: pair.Audience, Method: server2v1.InvoiceService_PayInvoice_FullMethodName, Request: packed, BindToCertificate: true,
	}
	if _, err := plain.Handoffs.IssueHandoff(t.Context(), ask, pair.Session(signedIn.GetSession())); handoffgrpc.ReasonOf(err) != handoff.ReasonArgumentInvalid {
		t.Errorf("without a certificate: %v", err)
	}
	issued, err := own.Handoffs.IssueHandoff(t.Context(), ask, pair.Session(signedIn.GetSession()))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		client *pair.Client
		want   handoff.Reason
	}{{"a thief", thief, handoff.ReasonCertificateMismatch}, {"without one", plain, handoff.ReasonCertificateMismatch}, {"its client", own, 0}} {
		_, err := c.client.Invoices.PayInvoice(t.Context(), request, handoffgrpc.Token(issued.GetToken()))
		if handoffgrpc.ReasonOf(err) != c.want || (err == nil) != (c.want == 0) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
