package pages

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// grantsPage is what the list of grants shows.
type grantsPage struct {
	Title, User string
	Grants      []granted
	Clients     []database.Client // that can be chosen
	Audiences   []destination
	Most        int // days
}

// granted is one grant, for people.
type granted struct {
	ID, Client, Host, What string
	Until                  time.Time
}

// mostDays is how long a grant that is made on the page can stand.
const mostDays = 90

// grantsOf shows which programs may do what for the user, and a form to allow another.
func (s *Site) grantsOf(e *exchange) error {
	listed, err := s.config.Grants.ListGrants(e.ctx, &handoffv1.ListGrantsRequest{})
	if err != nil {
		return err
	}
	shown := grantsPage{Title: "Programs that act for you", User: e.user().Name, Most: mostDays, Audiences: destinations(s.audiences())}
	for _, grant := range listed.GetGrants() {
		shown.Grants = append(shown.Grants, granted{
			ID: grant.GetGrantId(), Client: grant.GetClientName(), Host: s.hostOf(grant.GetAudience()), What: whatOf(grant.GetMethods()),
			Until: grant.GetExpireTime().AsTime(),
		})
	}
	clients, err := s.config.DB.Clients(e.ctx)
	if err != nil {
		return answer.Refused(handoff.ReasonIssuerUnavailable, err)
	}
	for _, client := range clients {
		if client.Disabled.IsZero() {
			shown.Clients = append(shown.Clients, client)
		}
	}
	return e.show(http.StatusOK, "grants", shown)
}

// grant lets a program pay the user's invoices.
func (s *Site) grant(e *exchange) error {
	form, err := e.form("client", "audience", "days")
	if err != nil {
		return err
	}
	days, err := strconv.Atoi(form["days"])
	if err != nil || days < 1 || days > mostDays {
		return errFormContent
	}
	_, err = s.config.Grants.CreateGrant(e.ctx, &handoffv1.CreateGrantRequest{
		ClientId: form["client"], Audience: form["audience"], Methods: []string{server2v1.InvoiceService_PayInvoice_FullMethodName},
		ExpireTime: timestamppb.New(s.config.Now().Add(time.Duration(days) * 24 * time.Hour)),
	})
	if isReason(err, handoff.ReasonArgumentInvalid) {
		return errFormContent // it is not the page's own
	}
	if err != nil {
		return err
	}
	return e.goTo(grantsPath)
}

// withdraw ends a grant. One that is over already is as good.
func (s *Site) withdraw(e *exchange) error {
	if _, err := e.form(); err != nil {
		return err
	}
	_, err := s.config.Grants.DeleteGrant(e.ctx, &handoffv1.DeleteGrantRequest{GrantId: e.name})
	if err != nil && !isReason(err, handoff.ReasonArgumentInvalid) {
		return err
	}
	return e.goTo(grantsPath)
}

// hostOf returns where an audience's pages are, for people, or its name.
func (s *Site) hostOf(audience string) string {
	if page, ok := pageOf(s.audiences(), audience); ok {
		return hostOf(page.Web)
	}
	return audience
}

// whatOf says in words what a grant lists.
func whatOf(methods []string) string {
	var words []string
	for _, method := range methods {
		if method == server2v1.InvoiceService_PayInvoice_FullMethodName {
			words = append(words, "pay invoices")
			continue
		}
		words = append(words, "call "+method)
	}
	return strings.Join(words, ", and ")
}
