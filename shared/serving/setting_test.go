package serving

import (
	"errors"
	"testing"
)

// A setting and what it must be make a sentence; a setting and a cause do not.
func TestSettingErrorReads(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]*SettingError{
		"--trust is required with --trust-key":         {"trust", errors.New("is required with --trust-key")},
		"--skew must be more than 0":                   {"skew", errors.New("must be more than 0")},
		"--trust-key has 3 keys":                       {"trust-key", errors.New("has 3 keys")},
		"--keys cannot be given together with --trust": {"keys", errors.New("cannot be given together with --trust")},
		"--keys: open x: no such file":                 {"keys", errors.New("open x: no such file")},
		"--keys: issuer.pem has no key":                {"keys", errors.New("issuer.pem has no key")},
		"unknown flag --x":                             {"", errors.New("unknown flag --x")},
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
