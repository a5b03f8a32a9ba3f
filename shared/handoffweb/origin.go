package handoffweb

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// CheckOrigin accepts a web origin in the one spelling in which browsers send it
// (RFC 6454 section 6.2): "https://billing.example", with a port only where it is
// not 443. Plain http is accepted for localhost, where browsers keep `__Host-`
// cookies too. An IPv6 address is refused: a Content-Security-Policy cannot name
// one.
func CheckOrigin(origin string) error {
	scheme, host, _ := strings.Cut(origin, "://")
	u, err := url.Parse(origin)
	switch {
	case err != nil || u.Scheme != scheme || u.Host != host || host == "":
		return errors.New("must be an origin such as https://billing.example: a scheme and a host, and nothing behind them")
	case scheme != "https" && (scheme != "http" || u.Hostname() != "localhost"):
		return errors.New("must begin with https:// (http:// is for localhost)")
	case !isHost(u.Hostname()):
		return errors.New("must have its host as browsers send it, in lower case and ASCII, and not an IPv6 address")
	case u.Port() != "" && !isPort(u.Port(), scheme) || strings.HasSuffix(host, ":"):
		return errors.New("must name its port in plain digits, and only where it is not the scheme's own")
	}
	return nil
}

var label = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// number is a last label that makes browsers read the whole host as an IPv4 address,
// and send its four parts (WHATWG URL, "ends in a number").
var number = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)

// isHost reports whether browsers send the host as it stands: a DNS name, or an IPv4
// address in its usual spelling.
func isHost(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Is4()
	}
	labels := strings.Split(host, ".")
	return len(host) <= 253 && !number.MatchString(labels[len(labels)-1]) &&
		!slices.ContainsFunc(labels, func(l string) bool { return !label.MatchString(l) })
}

func isPort(port, scheme string) bool {
	own := map[string]string{"https": "443", "http": "80"}[scheme]
	n, err := strconv.Atoi(port)
	return err == nil && n >= 1 && n <= 65535 && strconv.Itoa(n) == port && port != own
}

// hostOf returns an origin's host without its port, for the reader.
func hostOf(origin string) string {
	_, host, _ := strings.Cut(origin, "://")
	host, _, _ = strings.Cut(host, ":")
	return host
}
