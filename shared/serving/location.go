package serving

import (
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// Location is where a store is: at a path of this machine, or at a URL.
type Location struct {
	Path string   // empty: it is a URL
	URL  *url.URL // nil: it is a path
}

// nameless are the characters that a path without a slash, "./" or "../" at its
// beginning cannot have: such a text is more likely to be an address, a connection
// string or a URL with a slip in it, and then has a password.
const nameless = `:@=?#&;,%\"'` + "`" + `<>|`

// ParseLocation reads the setting that says where a store is. It is a URL that
// begins with one of the schemes and "://", or a path; and a text that could have
// been meant as anything else is refused. want is what the setting takes, for the
// error: "must be want: reason". The error repeats nothing of the text, which can
// have a password.
func ParseLocation(text, want string, schemes ...string) (Location, error) {
	refused := func(reason string) (Location, error) {
		return Location{}, errors.New("must be " + want + reason)
	}
	scheme, rest, isURL := strings.Cut(text, "://")
	switch {
	case text == "":
		return refused(", and is empty")
	case strings.TrimSpace(text) != text:
		return refused(", with no space before or after it")
	case strings.ContainsFunc(text, unicode.IsControl):
		return refused(", without control characters")
	case isURL && slices.Contains(schemes, scheme):
		u, err := url.Parse(text)
		address, _, _ := strings.Cut(rest, "?")
		if err != nil || strings.Contains(rest, "#") || strings.Count(address, "@") > 1 || strings.ContainsFunc(text, unicode.IsSpace) {
			return refused("; in a password of a URL, percent-encode all but letters and digits")
		}
		if scheme != "https" && strings.ContainsAny(u.Host+u.EscapedPath(), "&=") { // on the web a path can have them
			return refused("; the parameters of a URL begin with a question mark")
		}
		return Location{URL: u}, nil
	case isURL && slices.Contains(schemes, strings.ToLower(scheme)):
		return refused(", in lower case")
	case isURL:
		return refused("")
	case strings.HasPrefix(text, "//"):
		return refused(", and a path begins with one slash")
	case startsWithPath(text):
	case strings.ContainsAny(text, nameless), strings.ContainsFunc(text, unicode.IsSpace):
		return refused("; a path with a space or a sign such as : @ or = begins with / or ./")
	}
	return Location{Path: filepath.Clean(text)}, nil
}

func startsWithPath(text string) bool {
	return strings.HasPrefix(text, "/") || strings.HasPrefix(text, "./") || strings.HasPrefix(text, "../")
}
