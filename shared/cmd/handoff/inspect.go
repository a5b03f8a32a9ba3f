package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

type inspectCommand struct {
	UnsealKey []string `placeholder:"FILE" sep:"none" help:"Key that opens a sealed token, as keygen --use enc makes it. What is in it is then shown. Default: only that it is sealed."`

	At *instant `placeholder:"TIME" help:"Judge its times as of this time, in Unix seconds or RFC 3339 form. Default: now."`
}

func (inspectCommand) Help() string {
	return "Reads one JWT of any kind from standard input. What it prints is what somebody wrote there: nobody has checked who. " +
		"Then it says what is wrong with it as a handoff token, signature and addressee aside; of a visit, as a visit; of a trust list, as a trust list. " +
		"Exit status 0: it is shown. 1: it does not look like a JWT.\n\n" +
		"Example:\n\n    handoff inspect <token\n"
}

func (c *inspectCommand) Run(p *program) error {
	raw, err := readToken(p.in)
	if err != nil {
		return err
	}
	now := clockAt(p, c.At)()
	fmt.Fprintln(p.out, "NOT VERIFIED: anybody can have written this.")
	if found := pasted(raw); found != "" {
		fmt.Fprintf(p.out, "What was read is not just a token: %s.\n", found)
	}
	parts := strings.Split(raw, ".")
	if len(parts) == 5 {
		if raw, err = c.open(p.out, raw); err != nil {
			return err
		}
		parts = strings.Split(raw, ".")
	}
	if len(parts) != 3 {
		fmt.Fprintln(p.out, "It does not look like a JWT: it does not have three parts with dots between them.")
		return errRefused
	}
	header, payload := decodePart(parts[0]), decodePart(parts[1])
	if header.value == nil {
		fmt.Fprintln(p.out, "It does not look like a JWT: its first part is not a JSON object in base64url.")
		return errRefused
	}
	header.print(p.out, "header")
	payload.print(p.out, "payload")
	judge(p.out, raw, header, payload, now)
	return nil
}

// judge says what is wrong with a JWT as what it claims to be.
func judge(out io.Writer, raw string, header, payload part, now time.Time) {
	if header.text("typ") == trust.Profile().Typ {
		fmt.Fprintf(out, "As a handoff token it is refused:\n  %s: it is of another kind\n", "header.typ")
		explainList(out, oneList{statement: raw}, now)
		return
	}
	if _, bound := payload.members["cnf"]; bound {
		fmt.Fprintln(out, "It is bound to a client certificate (cnf): over any other connection it is refused.")
	}
	kind, name := handoff.KindHandoff, "handoff token"
	if header.text("typ") == string(handoff.KindVisit) {
		kind, name = handoff.KindVisit, "visit"
	}
	problems := diagnose(kind, raw, header, payload, now)
	if len(problems) == 0 {
		fmt.Fprintf(out, "As a %s nothing is wrong with it, as far as one can tell without the key. It expires in %s.\n",
			name, payload.expires().Sub(now).Round(time.Second))
		return
	}
	fmt.Fprintf(out, "As a %s it is refused:\n", name)
	for _, found := range problems {
		fmt.Fprintf(out, "  %s: %s\n", found.check, found.what)
	}
}

// open shows the header of a sealed token, and returns what is in it.
func (c *inspectCommand) open(out io.Writer, raw string) (string, error) {
	header, _, _ := strings.Cut(raw, ".")
	decodePart(header).print(out, "header")
	unseal, err := unsealer(c.UnsealKey)
	if err != nil {
		return "", err
	}
	if unseal == nil {
		fmt.Fprintln(out, "It has five parts: an encrypted JWT (JWE, RFC 7516), which only its audience can read.")
		return "", errRefused
	}
	inner, err := unseal(raw)
	if refusal, ok := errors.AsType[*handoff.Refusal](err); ok {
		fmt.Fprintf(out, "As a sealed token it is refused:\n  %s: %s\n", refusal.Check, refusal.Detail)
		return "", errRefused
	}
	fmt.Fprintln(out, "It is sealed to this key. What is in it:")
	return inner, err
}

// part is the header or the payload of an unverified JWT.
type part struct {
	decoded string         // as it stands in the token; empty: not base64url
	value   jsontext.Value // the same to be read; nil: not a JSON object in base64url
	members map[string]jsontext.Value
}

// decodePart is as lenient as can be: what it finds is only shown.
func decodePart(encoded string) part {
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return part{}
	}
	raw := part{decoded: string(text)}
	p := part{decoded: raw.decoded, value: text, members: map[string]jsontext.Value{}}
	lenient := jsontext.AllowDuplicateNames(true)
	if p.value.Kind() != '{' || p.value.Indent(lenient, jsontext.AllowInvalidUTF8(true), jsontext.WithIndent("  ")) != nil {
		return raw
	}
	dec := jsontext.NewDecoder(bytes.NewReader(p.value), lenient, jsontext.AllowInvalidUTF8(true))
	_, err = dec.ReadToken()
	for err == nil && dec.PeekKind() == '"' {
		var name jsontext.Token
		name, err = dec.ReadToken()
		key := name.String() // the token lasts until the next read
		var value jsontext.Value
		if err == nil {
			value, err = dec.ReadValue()
		}
		p.members[key] = value.Clone()
	}
	if err != nil {
		return raw
	}
	return p
}

func (p part) print(out io.Writer, name string) {
	if p.value == nil {
		fmt.Fprintf(out, "%s: not a JSON object in base64url\n", name)
		return
	}
	fmt.Fprintf(out, "%s: %s\n", name, visible(strings.ToValidUTF8(string(p.value), "\ufffd")))
}

// text returns a member that is a string; otherwise nothing.
func (p part) text(name string) string {
	text, err := jsontext.AppendUnquote(nil, p.members[name])
	if err != nil {
		return ""
	}
	return string(text)
}

// expires returns the time of exp; zero if it is not one.
func (p part) expires() time.Time {
	seconds, err := strconv.ParseUint(string(p.members["exp"]), 10, 38)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// finding is what is wrong with a token, under the check that says so.
type finding struct {
	check handoff.Check
	what  string
}

type findings []finding

func (f *findings) add(check handoff.Check, what string) { *f = append(*f, finding{check, what}) }

// addFirst adds what made a verifier stop, unless it is known in more detail.
func (f *findings) addFirst(err error) {
	refusal, ok := errors.AsType[*handoff.Refusal](err)
	if ok && !slices.ContainsFunc(*f, func(known finding) bool { return known.check == refusal.Check }) {
		f.add(refusal.Check, refusal.Detail)
	}
}

// diagnose lists everything that is wrong with a token. A verifier stops at the
// first fault: it is asked about the form, and about the payload under a
// signature of our own; what is missing or too much is compared here.
func diagnose(kind handoff.Kind, raw string, header, payload part, now time.Time) findings {
	var f findings
	header.compare(&f, []string{"alg", "kid", "typ"}, nil, func(string) handoff.Check { return "header.members" }, "header.members")
	_, _, err := kind.Profile().Open(context.Background(), raw, noKeys{})
	if !errors.Is(err, errNoKeys) {
		f.addFirst(err)
	}
	if payload.value != nil {
		required, optional := []string{"iss", "aud", "sub", "iat", "exp", "jti", "authorization_details"}, []string{"nbf", "sid", "cnf", "act"}
		if kind == handoff.KindVisit {
			required, optional = append(required, "sid"), []string{"nbf", "cnf"}
		}
		payload.compare(&f, required, optional,
			func(name string) handoff.Check { return handoff.Check("claim." + name) }, "payload.members")
	}
	if expires := payload.expires(); !expires.IsZero() && !now.Before(expires) {
		f.add("verify.exp", fmt.Sprintf("expired %s ago", now.Sub(expires).Round(time.Second)))
	}
	f.addFirst(verifyClaims(kind, payload, now))
	return f
}

// compare finds the members that are missing and those that are too much.
func (p part) compare(f *findings, required, optional []string, missing func(name string) handoff.Check, tooMuch handoff.Check) {
	for _, name := range required {
		if _, ok := p.members[name]; !ok {
			f.add(missing(name), name+" is missing")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.members)) {
		if !slices.Contains(required, name) && !slices.Contains(optional, name) {
			f.add(tooMuch, string(appendQuoted(nil, name))+" is too much")
		}
	}
}

var errNoKeys = errors.New("the key is not known here")

type noKeys struct{}

func (noKeys) Key(context.Context, string) (handoff.Key, error) { return handoff.Key{}, errNoKeys }

// verifyClaims says what a verifier would say of the payload, were it signed and
// the verifier its audience: it is signed with a key that is forgotten at once.
func verifyClaims(kind handoff.Kind, payload part, now time.Time) error {
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		return err
	}
	raw, err := kind.Profile().Seal(context.Background(), []byte(payload.decoded), key)
	if err != nil {
		return err
	}
	keys, err := keyset.New(key.Key())
	if err != nil {
		return err
	}
	config := handoff.VerifierConfig{
		Audience: payload.text("aud"), Issuers: map[string]handoff.KeySource{payload.text("iss"): listed{keys}},
		Store: noStore{}, Now: func() time.Time { return now },
	}
	v, err := handoff.NewVerifier(config)
	if err != nil { // they cannot be names, which the token is refused for
		config.Audience, config.Issuers = "nobody", map[string]handoff.KeySource{"nobody": listed{keys}}
		if v, err = handoff.NewVerifier(config); err != nil {
			return err
		}
	}
	_, err = v.VerifyAny(context.Background(), raw, nil)
	if handoff.ReasonOf(err) == handoff.ReasonCertificateMismatch { // which says how it came, and comes last
		return nil
	}
	return err
}
