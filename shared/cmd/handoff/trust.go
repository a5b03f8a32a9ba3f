package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/trust"
)

type trustCommands struct {
	Inspect trustInspectCommand `cmd:"" help:"Show what a trust list says, unverified, and what is wrong with it."`
	Verify  trustVerifyCommand  `cmd:"" help:"Verify a trust list as a follower does."`
}

type trustInspectCommand struct {
	File string   `arg:"" optional:"" placeholder:"FILE" help:"The trust list: its statement on one line, its entries on the next. Default, and for -: standard input."`
	At   *instant `placeholder:"TIME" help:"Judge its times as of this time, in Unix seconds or RFC 3339 form. Default: now."`
}

func (trustInspectCommand) Help() string {
	return "Prints one JSON object. What it says is what somebody wrote there: nobody has checked who. faults is what is wrong with it " +
		"as a trust list, signature, issuer and age aside. What it takes back is counted, not shown. " +
		"Exit status 0: it is shown. 1: it does not look like a JWT.\n\n" +
		"Example:\n\n    handoff trust inspect shop.trust\n"
}

func (c *trustInspectCommand) Run(p *program) error {
	l, err := readList(p, c.File)
	if err != nil {
		return err
	}
	now := clockAt(p, c.At)()
	s := summarize(l, now)
	if s.Header == nil {
		fmt.Fprintln(p.out, `{"verified":false}`)
		return errRefused
	}
	verified := false
	s.Verified, s.Faults = &verified, diagnoseList(l, now)
	return p.printJSON(s)
}

type trustVerifyCommand struct {
	File         string        `arg:"" optional:"" placeholder:"FILE" help:"The trust list: its statement on one line, its entries on the next. Default, and for -: standard input."`
	TrustKey     []string      `required:"" placeholder:"FILE" sep:"none" help:"Public trust key: a JWK Set, a JWK or PEM. Repeat it while the key changes: two are pinned then."`
	Issuer       string        `required:"" placeholder:"ISS" help:"The one iss that is accepted, byte for byte."`
	MaxStaleness time.Duration `default:"10s" placeholder:"DURATION" help:"Age at which a list is no longer relied on. Default: 10s."`
	Skew         time.Duration `default:"5s" placeholder:"DURATION" help:"How far ahead the issuer's clock may be, up to 60s. Default: 5s."`
	At           *instant      `placeholder:"TIME" help:"Verify as of this time, in Unix seconds or RFC 3339 form. Default: now."`
}

func (trustVerifyCommand) Help() string {
	return "Prints one JSON object: {\"valid\":true,\"header\":…,\"claims\":…,\"keys\":…,\"revoked\":…,\"age_seconds\":…,\"expires_in_seconds\":…}, where revoked " +
		"counts what is taken back, or {\"valid\":false,\"fault\":…,\"check\":…,\"detail\":…}, where fault is one of the trust list's SPEC.md. " +
		"That a list is not older than the one before is a follower's to see. Exit status 0: accepted. 1: refused. 2: a mistake in the flags or the key file.\n\n" +
		"To change the trust key: make one with keygen; pin both public keys at every audience; sign lists with the new one; when every audience " +
		"has got such a list, unpin the former. If the former may be in other hands, unpin it first: lists are refused until the new one signs.\n\n" +
		"Examples:\n\n    handoff trust verify --trust-key trust.jwks --issuer https://shop.example shop.trust\n\n" +
		"    curl -sS https://shop.example/.well-known/handoff-trust | handoff trust inspect   # shows revoked_sha256, the entries' digest\n" +
		"    { curl -sS https://shop.example/.well-known/handoff-trust; echo; curl -sS https://shop.example/.well-known/handoff-trust/DIGEST; } |\n" +
		"        handoff trust verify --trust-key trust.jwks --issuer https://shop.example\n"
}

func (c *trustVerifyCommand) Run(p *program) error {
	var keys []handoff.Key
	for _, path := range c.TrustKey {
		set, err := keyset.Load(path)
		if err != nil {
			return fmt.Errorf("--trust-key: %w", err)
		}
		keys = append(keys, set.Keys()...)
	}
	switch {
	case c.MaxStaleness == 0: // which FollowerConfig would take for the default
		return errors.New("--max-staleness: must be more than 0")
	case c.Skew == 0:
		return errors.New("--skew: must be more than 0")
	}
	now := clockAt(p, c.At)
	config := trust.FollowerConfig{
		Issuer: c.Issuer, TrustKeys: keys, MaxStaleness: c.MaxStaleness, Skew: c.Skew, Now: now, Feed: oneList{},
	}
	if _, err := trust.NewFollower(config); err != nil { // before the list is read
		return flagOf(err)
	}
	l, err := readList(p, c.File)
	if err != nil {
		return err
	}
	event, err := follow(config, l)
	if err != nil {
		return err
	}
	valid := event.Fault == ""
	if !valid {
		err := p.printJSON(struct {
			Valid bool `json:"valid"`
			fault
		}{valid, faultOf(event)})
		return errors.Join(err, errRefused)
	}
	s := summarize(l, now())
	s.Valid = &valid
	return p.printJSON(s)
}

func clockAt(p *program, at *instant) func() time.Time {
	if at == nil {
		return p.now
	}
	return func() time.Time { return at.Time }
}

// readList reads a file, or standard input, as a follower reads a file.
func readList(p *program, path string) (l oneList, err error) {
	in, name := p.in, "standard input"
	if path != "" && path != "-" {
		name = "FILE"
		f, err := os.Open(path)
		if err != nil {
			return l, fmt.Errorf("FILE: %w", err)
		}
		defer f.Close()
		in = f
	}
	if l.statement, l.entries, err = trust.ReadList(in); err != nil {
		return l, fmt.Errorf("%s: %w", name, err)
	}
	if l.statement == "" && name != "FILE" {
		return l, errors.New("standard input: no trust list")
	}
	return l, nil
}

// printJSON prints one object on one line, with nothing that a terminal would
// obey.
func (p *program) printJSON(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.out, visible(string(text)))
	return err
}
