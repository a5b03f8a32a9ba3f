package pages

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/handoff-auth/handoff/server1/internal/policy"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// order is something that a user has bought and can pay. Its id is that of the invoice
// at the audience.
type order struct {
	ID           string `json:"order"`
	What         string `json:"what"`
	CurrencyCode string `json:"currency_code"`
	MinorUnits   int64  `json:"minor_units"`
}

// readOrders returns the demo's orders, by the users' names.
func readOrders() (all map[string][]order, err error) {
	text, err := files.ReadFile("orders.json")
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	return all, err
}

// Amount is what the order costs, for people.
func (o order) Amount() string {
	return fmt.Sprintf("%d.%02d %s", o.MinorUnits/100, o.MinorUnits%100, o.CurrencyCode)
}

// payment is the call that pays the order at an audience. Its request id is the order's
// own, however often the user clicks: the audience pays it once (AIP-155).
func (o order) payment(userID string) *server2v1.PayInvoiceRequest {
	sum := sha256.Sum256([]byte("order\x00" + userID + "\x00" + o.ID))
	id := sum[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // UUID version 8, RFC 9562 section 5.8
	return &server2v1.PayInvoiceRequest{
		InvoiceId: o.ID,
		Amount:    &server2v1.Money{CurrencyCode: o.CurrencyCode, MinorUnits: o.MinorUnits},
		RequestId: fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
	}
}

// ordersPage is what the list of orders shows.
type ordersPage struct {
	Title, User string
	Orders      []order
	One         bool // one order, and not all
	Audiences   []destination
	Visited     []destination // whose application can be opened
}

// destination is where an order can be paid, or whose application can be opened.
type destination struct {
	Name string // of the audience
	Host string // of its pages, without the port: for people
}

// list shows the user's orders.
func (s *Site) list(e *exchange) error {
	shown := ordersPage{Title: "Your orders", User: e.user().Name, Orders: s.orders[e.user().Name]}
	shown.Audiences, shown.Visited = destinations(s.audiences()), destinations(s.visited())
	return e.show(http.StatusOK, "orders", shown)
}

// one shows one of the user's orders, for those whom an audience sends here to pay it.
// Looking at it pays nothing: a link can come from anybody.
func (s *Site) one(e *exchange) error {
	for _, o := range s.orders[e.user().Name] {
		if o.ID == e.name {
			return e.show(http.StatusOK, "orders", ordersPage{
				Title: "Your order " + o.ID, User: e.user().Name, One: true, Orders: []order{o}, Audiences: destinations(s.audiences()),
			})
		}
	}
	return errNoPage
}

func destinations(pages []policy.Page) (all []destination) {
	for _, page := range pages {
		all = append(all, destination{Name: page.Audience, Host: hostOf(page.Web)})
	}
	return all
}

func hostOf(web string) string {
	u, err := url.Parse(web)
	if err != nil {
		return web
	}
	return u.Hostname()
}
