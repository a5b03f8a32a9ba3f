package pair

import (
	"net"

	"github.com/handoff-auth/handoff/scripts/internal/browser"
)

// Shop is the origin of SERVER1's pages, with Config.Trust: https://shop.localhost:PORT.
// Those of its first process.
func (p *Pair) Shop() string { return pagesAt(shopHost, p.web1[0]) }

// Billing is the origin of SERVER2's pages, likewise.
func (p *Pair) Billing() string { return pagesAt(billingHost, p.Audiences[0].Web) }

func pagesAt(host, address string) string {
	return "https://" + net.JoinHostPort(host, portOf(address))
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address) // it listens there
	return port
}

// Browser returns a browser that reaches the pages of both.
func (p *Pair) Browser() (*browser.Browser, error) {
	shop, billing := p.web1[0], p.Audiences[0].Web
	return browser.New(p.CA, map[string]string{
		net.JoinHostPort(shopHost, portOf(shop)):       shop,
		net.JoinHostPort(billingHost, portOf(billing)): billing,
	})
}
