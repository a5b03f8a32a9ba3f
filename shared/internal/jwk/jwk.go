// Package jwk has what the packages that read keys understand alike: how a JSON Web
// Key (RFC 7517) spells its values and its algorithm, and what a file is that is none.
package jwk

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// CheckValue refuses a value of a member of the key's own that is not the one spelling
// of what it stands for: canonical base64url, and, of an RSA key, a number without
// leading zero octets (RFC 7518 section 2, Base64urlUInt, and section 6.3.1.1).
func CheckValue(kty, name, value string) error {
	b, err := base64.RawURLEncoding.DecodeString(value)
	switch {
	case err != nil || len(b) == 0 || base64.RawURLEncoding.EncodeToString(b) != value:
		return fmt.Errorf("%s is missing or not base64url", name)
	case kty == "RSA" && b[0] == 0:
		return fmt.Errorf("%s begins with a zero octet, which a number must not have", name)
	}
	return nil
}

// Algorithm returns the name that tokens carry for what a key's `alg` says: EdDSA for
// Ed25519, which says it with the curve (RFC 9864 section 2.2).
func Algorithm(alg string) string {
	if alg == "Ed25519" {
		return "EdDSA"
	}
	return alg
}

// Instead says what a file is that should be JSON and is of another well-known form, or
// returns nil. It repeats nothing of the file.
func Instead(text string) error {
	trimmed := strings.TrimSpace(text)
	begins := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(trimmed, prefix) })
	}
	switch {
	case trimmed == "":
		return errors.New("it is empty")
	case begins("\xef\xbb\xbf"):
		return errors.New("it begins with a byte order mark: save it without one")
	case begins("\xff\xfe", "\xfe\xff"):
		return errors.New("it is UTF-16: save it as UTF-8 without a byte order mark")
	case begins("ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "---- BEGIN SSH2", "PuTTY-User-Key-File", "-----BEGIN OPENSSH PRIVATE KEY"):
		return errors.New("it is a key of ssh, in a form of its own")
	case begins("-----BEGIN "):
		return errors.New("it is PEM, not a JWK")
	case begins("0\x82", "0\x81", "0Y", "0v", "0*", "0.", "0w"): // a SEQUENCE, X.690 section 8.9
		return errors.New("it is DER, not text")
	case strings.Contains(trimmed, "-----BEGIN ") && !begins("{"):
		return errors.New("there is text before its PEM: remove all before -----BEGIN")
	}
	return nil
}
