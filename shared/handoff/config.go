package handoff

import (
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/ident"
)

// A ConfigError says which field of a configuration, or of a method's parameters,
// was refused, and why. Every constructor of this module that names a field returns
// one; a program that sets the field from a flag of its own shows Problem behind
// the flag's name.
type ConfigError struct {
	// Field is the field's full name in Go: "handoff.VerifierConfig.Audience".
	Field string
	// Problem is what is wrong with it, as a predicate: "must be whole seconds from
	// 1s to 5m0s". It quotes no secret.
	Problem string
	// Err is the cause, where something else refused the field; otherwise nil.
	Err error
}

// Error returns a sentence with the field as its subject.
func (e *ConfigError) Error() string {
	text := e.Field + " " + e.Problem
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

func missing(field string) error { return &ConfigError{Field: field, Problem: "is required"} }

func checkName(field, s string) error {
	if ident.Name(s) {
		return nil
	}
	return &ConfigError{
		Field:   field,
		Problem: fmt.Sprintf("must be 1 to %d visible ASCII characters without space, quote or backslash", ident.MaxName),
	}
}

func checkLifetime(field string, d, most time.Duration) error {
	if d >= time.Second && d <= most && d%time.Second == 0 {
		return nil
	}
	return &ConfigError{Field: field, Problem: fmt.Sprintf("is %s: it must be whole seconds from 1s to %s", d, most)}
}

func checkSkew(field string, d time.Duration) error {
	if d >= 0 && d <= MaxSkew {
		return nil
	}
	return &ConfigError{Field: field, Problem: fmt.Sprintf("is %s: it must be at most %s, and not negative", d, MaxSkew)}
}
