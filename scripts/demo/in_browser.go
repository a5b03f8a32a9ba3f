package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/browser"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

// inBrowser tells of a person whom the shop redirects to billing. alice is her other
// session, which asks SERVER2 for its books.
func (s *story) inBrowser(ctx context.Context, alice string) error {
	s.chapter("In a browser: alice clicks in the shop and confirms at billing")

	b, err := s.pair.Browser()
	if err != nil {
		return err
	}
	defer b.Close()
	orders, err := signInAt(ctx, b, s.pair.Shop(), "alice")
	if err != nil {
		return err
	}
	s.step("she signs in on the shop's page", "Your orders", orders.Title())
	confirm, err := s.arrive(ctx, orders, alice)
	if err != nil {
		return err
	}
	if err := s.confirm(ctx, confirm, alice); err != nil {
		return err
	}
	if err := s.otherSites(ctx, b, orders); err != nil {
		return err
	}
	app, err := s.openApp(ctx, orders)
	if err != nil {
		return err
	}
	return s.signOutMeanwhile(ctx, app, orders, alice)
}

// signInAt signs a user in at the shop.
func signInAt(ctx context.Context, b *browser.Browser, shop, user string) (*browser.Page, error) {
	page, err := b.Open(ctx, shop)
	if err != nil {
		return nil, err
	}
	return page.Submit(ctx, "Sign in", "user_name", user, "password", pair.Password)
}

// arrive takes the handoff of one payment to billing.
func (s *story) arrive(ctx context.Context, orders *browser.Page, alice string) (*browser.Page, error) {
	sent, err := orders.Submit(ctx, "Pay at billing.localhost: INV-48")
	if err != nil {
		return nil, err
	}
	confirm, err := sent.Submit(ctx, "Continue")
	if err != nil {
		return nil, err
	}
	s.step("she clicks \"Pay\"; the handoff travels in forms", "no token in 3 addresses",
		tokensIn(sent.Visited, confirm.Visited))
	books, err := s.paymentsOf(ctx, alice, "INV-48")
	if err != nil {
		return nil, err
	}
	s.step("she arrives at billing; SERVER2's books", "no payment of INV-48", books)
	s.step("billing shows what the shop has signed", "Pay invoice INV-48: 19.00 EUR", confirm.Title())
	return confirm, nil
}

// tokensIn counts the addresses, and those that hold a token.
func tokensIn(visited ...[]string) string {
	all, with := 0, 0
	for _, addresses := range visited {
		for _, address := range addresses {
			all++
			if strings.Contains(address, "eyJ") {
				with++
			}
		}
	}
	if with == 0 {
		return fmt.Sprintf("no token in %d addresses", all)
	}
	return fmt.Sprintf("a token in %d of %d addresses", with, all)
}

// confirm confirms, and does all that could pay once more.
func (s *story) confirm(ctx context.Context, confirm *browser.Page, alice string) error {
	const done = "Invoice INV-48 is paid: 19.00 EUR."
	outcome, err := confirm.Submit(ctx, "Pay 19.00 EUR")
	if err != nil {
		return err
	}
	s.step("she confirms", done, says(outcome, done))
	for _, again := range []struct {
		did string
		do  func() (*browser.Page, error)
	}{
		{"she reloads the page", func() (*browser.Page, error) { return outcome.Reload(ctx) }},
		{"she goes back", func() (*browser.Page, error) { return confirm.Reload(ctx) }},
		{"she clicks \"Pay\" a second time, on the page as it was", func() (*browser.Page, error) { return confirm.Submit(ctx, "Pay 19.00 EUR") }},
	} {
		page, err := again.do()
		if err != nil {
			return err
		}
		s.step(again.did, done, says(page, done))
	}
	books, err := s.paymentsOf(ctx, alice, "INV-48")
	if err != nil {
		return err
	}
	s.step("SERVER2's books after all of this", "1 payment of INV-48", books)
	shop, err := outcome.Click(ctx, "Back to")
	if err != nil {
		return err
	}
	s.step("the link back to the shop", "Back from billing.localhost", shop.Title())
	return nil
}

// says returns what is expected where the page says it, and otherwise all that it says.
func says(page *browser.Page, expected string) string {
	text := page.Text()
	if strings.Contains(text, expected) {
		return expected
	}
	return fmt.Sprintf("%d: %s", page.Status, text)
}

// otherSites tells what another site can do to somebody who is signed in.
func (s *story) otherSites(ctx context.Context, b *browser.Browser, orders *browser.Page) error {
	const evil = "https://evil.localhost"
	attacker, err := s.pair.Browser()
	if err != nil {
		return err
	}
	defer attacker.Close()
	theirs, err := signInAt(ctx, attacker, s.pair.Shop(), "bob")
	if err != nil {
		return err
	}
	own, err := theirs.Submit(ctx, "Pay at billing.localhost: INV-45")
	if err != nil {
		return err
	}
	planted, err := own.From(evil)
	if err != nil {
		return err
	}
	before := len(b.Cookies("billing.localhost"))
	page, err := planted.In(b).Submit(ctx, "Continue")
	if err != nil {
		return err
	}
	s.step("another site sends her browser a handoff of its own", "403, and no cookie is set",
		fmt.Sprintf("%d, and %s", page.Status, cookiesSet(len(b.Cookies("billing.localhost"))-before)))

	confirm, err := handOff(ctx, orders, "INV-49")
	if err != nil {
		return err
	}
	forged, err := confirm.From(evil)
	if err != nil {
		return err
	}
	if page, err = forged.Submit(ctx, "Pay 8.50 EUR"); err != nil {
		return err
	}
	s.step("another site confirms in her name", "403", fmt.Sprint(page.Status))
	return nil
}

// handOff clicks on "Pay" in the shop, and on "Continue", to billing's page.
func handOff(ctx context.Context, orders *browser.Page, invoice string) (*browser.Page, error) {
	sent, err := orders.Submit(ctx, "Pay at billing.localhost: "+invoice)
	if err != nil {
		return nil, err
	}
	return sent.Submit(ctx, "Continue")
}

func cookiesSet(n int) string {
	if n == 0 {
		return "no cookie is set"
	}
	return fmt.Sprintf("%d cookies are set", n)
}

// openApp tells of billing's single-page application, which reads for her by a visit.
func (s *story) openApp(ctx context.Context, orders *browser.Page) (*browser.Page, error) {
	sent, err := orders.Submit(ctx, "Open billing.localhost")
	if err != nil {
		return nil, err
	}
	app, err := sent.Submit(ctx, "Continue")
	if err != nil {
		return nil, err
	}
	visit, err := app.Fetch(ctx, http.MethodGet, "/visit")
	if err != nil {
		return nil, err
	}
	told := fmt.Sprintf("%d: %s", visit.Status, visit.Body)
	if strings.Contains(visit.Body, `"subject":"`+s.pair.Users["alice"].ID+`"`) && !strings.Contains(visit.Body, "eyJ") {
		told = "hers, without the token"
	}
	s.step("she opens billing's application; its script asks whose visit it has", "hers, without the token", told)
	for _, call := range []struct{ did, method, expected string }{
		{"the application calls for her invoices", server2v1.InvoiceService_ListInvoices_FullMethodName, "INV-42, and none of bob's"},
		{"a script in it makes a call that pays", server2v1.InvoiceService_PayInvoice_FullMethodName, "METHOD_MISMATCH"},
	} {
		got, err := calls(ctx, app, call.method)
		if err != nil {
			return nil, err
		}
		s.step(call.did, call.expected, got)
	}
	return app, nil
}

// calls makes a call as the application does, and says what it is answered.
func calls(ctx context.Context, app *browser.Page, method string) (string, error) {
	response, err := app.Call(ctx, "/rpc"+method, "application/json", "{}", nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	var failure struct {
		Details []struct{ Debug struct{ Reason string } }
	}
	_ = json.Unmarshal(text, &failure) // of an answer, there are none
	for _, detail := range failure.Details {
		if detail.Debug.Reason != "" {
			return detail.Debug.Reason, nil
		}
	}
	if answer := string(text); strings.Contains(answer, `"INV-42"`) && !strings.Contains(answer, `"INV-43"`) {
		return "INV-42, and none of bob's", nil
	}
	return fmt.Sprintf("%d: %s", response.StatusCode, text), nil
}

// signOutMeanwhile tells of pages that were open while their session ended.
func (s *story) signOutMeanwhile(ctx context.Context, app, orders *browser.Page, alice string) error {
	confirm, err := handOff(ctx, orders, "INV-49")
	if err != nil {
		return err
	}
	if _, err := orders.Submit(ctx, "Sign out"); err != nil {
		return err
	}
	time.Sleep(time.Second) // in which SERVER2 hears of it
	page, err := confirm.Submit(ctx, "Pay 8.50 EUR")
	if err != nil {
		return err
	}
	const refused = "This request was taken back"
	s.step("she signs out in another tab while billing's page is open, and then confirms", refused, says(page, refused))
	books, err := s.paymentsOf(ctx, alice, "INV-49")
	if err != nil {
		return err
	}
	s.step("SERVER2's books", "no payment of INV-49", books)
	got, err := calls(ctx, app, server2v1.InvoiceService_ListInvoices_FullMethodName)
	if err != nil {
		return err
	}
	s.step("the application's next call", "TOKEN_REVOKED", got)
	return nil
}
