package serving

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
)

// CheckName refuses the name of an issuer or an audience that is no absolute URL of
// https, or of http on this machine: another name sticks to what has been made under
// it. The URL has no user, no query and no fragment (RFC 8414 section 2), and is
// compared byte for byte elsewhere.
func CheckName(name string) error {
	u, err := url.Parse(name)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return errors.New("must be an absolute URL, such as https://shop.example")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(name, "#"):
		return errors.New("must be a URL without user, query and fragment")
	case !strings.HasPrefix(name, "https://") && !(strings.HasPrefix(name, "http://") && isHere(u.Hostname())):
		return errors.New("must begin with https:// (http:// is for this machine: localhost)")
	}
	return nil
}

// isHere reports whether a host is this machine (RFC 6761 section 6.3).
func isHere(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}
