package pages

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffweb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// pay hands off the payment of one order, as IssueHandoff does over gRPC, and answers with
// the page that takes the handoff to its audience.
func (s *Site) pay(e *exchange) error {
	form, err := e.form("audience")
	if err != nil {
		return err
	}
	orders := s.orders[e.user().Name]
	which := slices.IndexFunc(orders, func(o order) bool { return o.ID == e.name })
	if which < 0 {
		return errNoPage
	}
	to, ok := pageOf(s.audiences(), form["audience"])
	if !ok {
		return errFormContent
	}
	request, err := anypb.New(orders[which].payment(e.user().ID))
	if err != nil {
		return err
	}
	issued, err := s.config.Handoffs.IssueHandoff(e.ctx, &handoffv1.IssueHandoffRequest{
		Audience: to.Audience, Method: server2v1.InvoiceService_PayInvoice_FullMethodName, Request: request,
	})
	if err != nil {
		return err
	}
	return e.send(issued.GetToken(), to)
}

// pageOf finds an audience's page.
func pageOf(pages []policy.Page, audience string) (page policy.Page, ok bool) {
	i := slices.IndexFunc(pages, func(p policy.Page) bool { return p.Audience == audience })
	if i < 0 {
		return page, false
	}
	return pages[i], true
}

// send answers with the page that takes a handoff or a visit to its audience.
func (e *exchange) send(raw string, to policy.Page) error {
	if err := handoffweb.Send(e.w, handoffweb.Passage{Token: raw, To: to.Web}); err != nil {
		// Its reason is not the user's doing.
		return fmt.Errorf("the token cannot be sent: %v", err)
	}
	return nil
}

// handedOffPage is what the page of one handoff shows.
type handedOffPage struct {
	Title, User     string
	Host            string // of the audience's pages
	Issued, Expires time.Time
	Over, TakenBack bool
}

// handedOff shows what is known of one of the user's handoffs: that it was issued, and
// whether it can still be carried out. What became of it, its audience has said.
func (s *Site) handedOff(e *exchange) error {
	known, err := s.config.DB.Handoff(e.ctx, e.user().ID, e.name)
	switch {
	case errors.Is(err, database.ErrNotFound):
		return errNoPage
	case err != nil:
		return answer.Refused(handoff.ReasonIssuerUnavailable, err)
	}
	host := s.hostOf(known.Audience)
	return e.show(http.StatusOK, "handed-off", handedOffPage{
		Title: "Back from " + host, User: e.user().Name, Host: host,
		Issued: known.Issued.UTC(), Expires: known.Expires.UTC(),
		Over: !s.config.Now().Before(known.Expires), TakenBack: known.TakenBack,
	})
}
