package serving

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
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
		"--issuer covers nothing":                      {"issuer", &handoff.ConfigError{Field: "x.Config.Issuer", Problem: "covers nothing"}},
		"--field cannot be signed: no such file":       {"field", &handoff.ConfigError{Field: "x", Problem: "cannot be signed", Err: errors.New("no such file")}},
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Of a constructor's errors, those about a field that has a setting name it.
func TestNamed(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"x.Config.Skew": "skew"}
	known := fmt.Errorf("starting: %w", &handoff.ConfigError{Field: "x.Config.Skew", Problem: "is 2m0s: it must be at most 1m0s"})
	var setting *SettingError
	if err := Named(known, settings); !errors.As(err, &setting) || err.Error() != "--skew is 2m0s: it must be at most 1m0s" {
		t.Errorf("got %v", err)
	}
	for _, err := range []error{errors.New("x.Config.Skew is bad"), &handoff.ConfigError{Field: "x.Config.Log", Problem: "is required"}} {
		if got := Named(err, settings); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// What ends the program is one line, and shows no password.
func TestExit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		want   string
	}{
		{nil, 0, ""},
		{errors.New("the disk\n\tis full"), 1, "prog: the disk is full\n"},
		{&SettingError{"listen", errors.New("no such host")}, 2, "prog: --listen: no such host\n"},
		{&SettingError{Err: errors.New("unexpected argument postgres://me:se/c@ret@db.example/x")}, 2, "prog: unexpected argument postgres://me:xxxxx@db.example/x\n"},
		{errors.New("rediss://:secret@db.example:6379, grpc://db.example"), 1, "prog: rediss://:xxxxx@db.example:6379, grpc://db.example\n"},
		{errors.New("postgres://me@corp:secret@db.example/x"), 1, "prog: postgres://me@corp:xxxxx@db.example/x\n"},
		{errors.New("redis://:PASSWORD@HOST:PORT is how it is given"), 1, "prog: redis://:PASSWORD@HOST:PORT is how it is given\n"},
		{errors.New("postgres://me@db.example/x: no"), 1, "prog: postgres://me@db.example/x: no\n"},
	} {
		var line strings.Builder
		if status := Exit(&line, "prog", c.err); status != c.status || line.String() != c.want {
			t.Errorf("%v: %d and %q, want %d and %q", c.err, status, line.String(), c.status, c.want)
		}
	}
}
