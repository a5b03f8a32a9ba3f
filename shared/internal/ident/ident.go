// Package ident says how names and ids in tokens, assertions and trust lists are
// written, so that each has one spelling in JSON, in logs and to the eye.
package ident

// MaxName is how long a name may be, in bytes.
const MaxName = 255

// Name reports whether s can be the name of an issuer, an audience, a user or a client:
// 1 to 255 visible ASCII characters other than the double quote and the backslash.
func Name(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// ID reports whether s is 128 bits in base64url without padding (RFC 4648 section 5), in
// its one spelling.
func ID(s string) bool {
	if len(s) != 22 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	switch s[21] { // the four bits that are left over are zero
	case 'A', 'Q', 'g', 'w':
		return true
	}
	return false
}
