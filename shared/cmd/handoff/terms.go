package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/strictjson"
	"github.com/handoff-auth/handoff/shared/trust"
)

// termFlags are the times from which follows how long a step must wait. They are
// kept with the keys: a step that was taken by other times could break tokens.
type termFlags struct {
	MaxStaleness *time.Duration `placeholder:"DURATION" help:"Longest that any audience relies on a list of keys without the newest: the lifetime of the trust list, or the time that a copied file takes. Default: as recorded; at first 60s."`
	MaxLifetime  *time.Duration `placeholder:"DURATION" help:"Longest that a token lives, up to 5m, and of an issuer of visits up to 1h. Default: as recorded; at first 5m."`
	Skew         *time.Duration `placeholder:"DURATION" help:"Most that any two clocks differ, up to 60s. Default: as recorded; at first 5s."`
}

// term is one of the times: a flag, a member of the file, a field of trust.Terms.
type term struct {
	flag, member       string
	given              func(termFlags) *time.Duration
	of                 func(*trust.Terms) *time.Duration
	unit, most, atLast time.Duration
}

var allTerms = []term{
	{
		flag: "--max-staleness", member: "max_staleness_ms",
		given: func(f termFlags) *time.Duration { return f.MaxStaleness },
		of:    func(t *trust.Terms) *time.Duration { return &t.ListLifetime },
		unit:  time.Second, most: trust.MaxListLifetime, atLast: trust.DefaultListLifetime,
	},
	{
		flag: "--max-lifetime", member: "max_lifetime_ms",
		given: func(f termFlags) *time.Duration { return f.MaxLifetime },
		of:    func(t *trust.Terms) *time.Duration { return &t.TokenLifetime },
		unit:  time.Second, most: time.Hour, atLast: handoff.MaxLifetime, // a visit's most
	},
	{
		flag: "--skew", member: "skew_ms",
		given: func(f termFlags) *time.Duration { return f.Skew },
		of:    func(t *trust.Terms) *time.Duration { return &t.Skew },
		unit:  time.Millisecond, most: handoff.MaxSkew, atLast: handoff.DefaultSkew,
	},
}

func (t term) check(d time.Duration) error {
	if d < t.unit || d > t.most || d%t.unit != 0 {
		return fmt.Errorf("must be from %s to %s, in steps of %s", t.unit, t.most, t.unit)
	}
	return nil
}

// over returns the terms by which steps are taken from now on. A longer time is
// safe at once, where it is recorded before the issuer keeps to it. A shorter one
// is not: something of the former may be alive.
func (f termFlags) over(recorded trust.Terms) (trust.Terms, error) {
	for _, t := range allTerms {
		d, given := t.of(&recorded), t.given(f)
		switch {
		case given == nil && *d == 0:
			*d = t.atLast
		case given == nil:
		case t.check(*given) != nil:
			return recorded, fmt.Errorf("%s: %w", t.flag, t.check(*given))
		case *given < *d:
			return recorded, fmt.Errorf("%s: %s is recorded; once nothing that was made by it can be alive, shorten it in %s", t.flag, *d, termsFile)
		default:
			*d = *given
		}
	}
	return recorded, nil
}

func formatTerms(terms trust.Terms) []byte {
	b := []byte{'{'}
	for i, t := range allTerms {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `"`+t.member+`":`...)
		b = strconv.AppendInt(b, t.of(&terms).Milliseconds(), 10)
	}
	return append(b, "}\n"...)
}

func parseTerms(text []byte) (terms trust.Terms, err error) {
	err = strictjson.Read(string(text), func(r *strictjson.Reader) error {
		return r.Object(func(name string) error {
			for _, t := range allTerms {
				if t.member != name {
					continue
				}
				ms, err := r.Integer()
				if err != nil {
					return err
				}
				if ms > t.most.Milliseconds() {
					ms = 0 // before it overflows
				}
				*t.of(&terms) = time.Duration(ms) * time.Millisecond
				return nil
			}
			return errors.New("it has another member")
		})
	})
	for _, t := range allTerms {
		if err == nil && t.check(*t.of(&terms)) != nil {
			err = fmt.Errorf("%s is missing or out of range: it %w", t.member, t.check(*t.of(&terms)))
		}
	}
	return terms, err
}
