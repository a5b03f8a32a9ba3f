package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// Browser measures what a payment that somebody confirms in a browser costs
// SERVER2, beside the same call over gRPC. The tokens are made beforehand.
func Browser(ctx context.Context, s measure.Settings, t *measure.Table) (err error) {
	rounds, n := 5, 2000
	if s.Short {
		rounds, n = 3, 300
	}
	v, err := newVisit(ctx, pair.Config{Bin: s.Bin, Dir: filepath.Join(s.Dir, "browser")})
	if err != nil {
		return fmt.Errorf("make build comes first: %w", err)
	}
	defer func() { err = errors.Join(err, v.end()) }()
	web, err := newPassenger(v.pair)
	if err != nil {
		return err
	}
	var raws []string
	ways := []struct {
		what string
		do   measure.Call
	}{
		{"PayInvoice over gRPC", func(ctx context.Context, i int) error {
			_, err := v.client.Invoices.PayInvoice(ctx, v.request, handoffgrpc.Token(raws[i]))
			return err
		}},
		{"arrival, page, confirmation", func(ctx context.Context, i int) error {
			_, err := web.confirm(ctx, raws[i])
			return err
		}},
		{"the same, and the page of what became of it", func(ctx context.Context, i int) error { return web.whole(ctx, raws[i]) }},
	}
	used := make([][]float64, len(ways))
	for round := range rounds {
		for k := range ways {
			i := (k + round) % len(ways)
			s.Say("browser: %s", ways[i].what)
			if raws, err = v.tokens(ctx, n); err != nil {
				return err
			}
			before := measure.UsageOf(v.pair.Server2.Pid()).Processor
			if _, err := measure.Closed(ctx, n, callers, ways[i].do); err != nil {
				return fmt.Errorf("%s: %w", ways[i].what, err)
			}
			used[i] = append(used[i], float64(measure.UsageOf(v.pair.Server2.Pid()).Processor-before)/float64(n))
		}
	}
	same := func(x float64) float64 { return x }
	for i, way := range ways {
		ratios := make([]float64, rounds)
		for round := range ratios {
			ratios[round] = used[i][round] / used[0][round]
		}
		t.Add(measure.Line{
			What: "processor time at SERVER2: " + way.what, Median: measure.Microseconds(measure.Median(used[i], same)), Ratio: measure.Median(ratios, same),
		})
	}
	return nil
}

// passenger is a client that takes handoffs to SERVER2's pages, with the headers that its
// checks ask for. Of pages it reads only the confirmation's hidden field, so that
// SERVER2 is what is measured.
type passenger struct {
	client        *http.Client
	shop, billing string // origins
}

func newPassenger(p *pair.Pair) (*passenger, error) {
	roots, err := vetted.File{Path: p.CA, Max: 1 << 20}.Roots()
	if err != nil {
		return nil, err
	}
	address := p.Server2.Web
	return &passenger{shop: p.Shop(), billing: p.Billing(), client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			},
		},
	}}, nil
}

// confirm takes one handoff from its arrival to its confirmation, and returns its
// page's address with its cookies.
func (p *passenger) confirm(ctx context.Context, raw string) (at string, err error) {
	arrived, _, err := p.send(ctx, http.MethodPost, "/handoff", url.Values{"handoff": {raw}}.Encode(), p.shop, "", http.StatusSeeOther)
	if err != nil {
		return "", err
	}
	page, cookie := arrived.Header.Get("Location"), cookieOf(arrived)
	_, shown, err := p.send(ctx, http.MethodGet, page, "", "", cookie, http.StatusOK)
	if err != nil {
		return "", err
	}
	_, after, found := strings.Cut(shown, `name="handoff-confirm" value="`)
	proof, _, closed := strings.Cut(after, `"`)
	if !found || !closed {
		return "", fmt.Errorf("%s: the form has no proof", page)
	}
	done, _, err := p.send(ctx, http.MethodPost, page, "handoff-confirm="+proof, p.billing, cookie, http.StatusSeeOther)
	if err != nil {
		return "", err
	}
	return page + " " + cookieOf(done), nil
}

// whole is confirm, and the page that tells the outcome.
func (p *passenger) whole(ctx context.Context, raw string) error {
	at, err := p.confirm(ctx, raw)
	if err != nil {
		return err
	}
	page, cookie, _ := strings.Cut(at, " ")
	_, _, err = p.send(ctx, http.MethodGet, page, "", "", cookie, http.StatusOK)
	return err
}

// cookieOf returns the cookies that an answer sets and does not delete.
func cookieOf(response *http.Response) string {
	var pairs []string
	for _, cookie := range response.Cookies() {
		if cookie.MaxAge >= 0 {
			pairs = append(pairs, cookie.Name+"="+cookie.Value)
		}
	}
	return strings.Join(pairs, "; ")
}

func (p *passenger) send(ctx context.Context, method, path, body, origin, cookie string, want int) (*http.Response, string, error) {
	request, err := http.NewRequestWithContext(ctx, method, p.billing+path, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	for name, value := range map[string]string{"Origin": origin, "Cookie": cookie} {
		if value != "" {
			request.Header.Set(name, value)
		}
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := p.client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, "", err
	}
	if response.StatusCode != want {
		return nil, "", fmt.Errorf("%s %s: %s, want %d", method, path, response.Status, want)
	}
	return response, string(text), nil
}
