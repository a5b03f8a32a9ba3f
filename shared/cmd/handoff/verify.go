package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

type verifyCommand struct {
	Keys        string   `required:"" placeholder:"FILE" help:"Public keys of the issuer: a JWK Set, a JWK or PEM."`
	Issuer      string   `required:"" placeholder:"ISS" help:"The one iss that is accepted, byte for byte."`
	Audience    string   `required:"" placeholder:"AUD" help:"The one aud that is accepted, byte for byte."`
	UnsealKey   []string `placeholder:"FILE" sep:"none" help:"Key that opens sealed tokens, as keygen --use enc makes it; repeat it for the second of two. Default: sealed tokens are refused."`
	Certificate string   `placeholder:"FILE" help:"Client certificate in PEM, the first of the file, of the connection over which the tokens came. Default: none; a token that is bound to one is refused."`

	At     *instant `placeholder:"TIME" help:"Verify as of this time, in Unix seconds or RFC 3339 form. Default: now."`
	Method string   `placeholder:"METHOD" help:"Check that the token is for this method, such as /billing.v1.Billing/Pay, and for exactly the fields of --field; a visit is for any. Default: any operation."`
	Field  []string `placeholder:"PATH=VALUE" sep:"none" help:"A populated field of the request and its value as text, as SPEC.md flattens it. Needs --method. Repeat it for each."`
	NDJSON bool     `name:"ndjson" help:"Read a line {\"id\":\"…\",\"token\":\"…\"} for each token, of at most 16 MiB, and write a result with the same id for each at once."`
}

func (verifyCommand) Help() string {
	return "Reads one token from standard input and prints one JSON object: {\"valid\":true,\"claims\":{…}}, or " +
		"{\"valid\":false,\"reason\":…,\"check\":…,\"detail\":…}, where check names the rule of SPEC.md. " +
		"Nothing is redeemed. A visit is taken as well: whether it was taken back, which an audience reads in the trust list, is not " +
		"known here. Exit status 0: accepted; with --ndjson, all lines were read. 1: refused. " +
		"2: a mistake in the flags, the key file or a line.\n\n" +
		"Example:\n\n" +
		"    handoff verify --keys shop.jwks --issuer https://shop.example --audience https://billing.example <token\n"
}

// instant is a time on the command line.
type instant struct{ time.Time }

// UnmarshalText reads Unix seconds, or RFC 3339.
func (i *instant) UnmarshalText(text []byte) error {
	if seconds, err := strconv.ParseUint(string(text), 10, 38); err == nil { // 2^38 s: the year 10680
		i.Time = time.Unix(int64(seconds), 0)
		return nil
	}
	at, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return errors.New("neither Unix seconds nor a time such as 2026-01-02T15:04:05Z")
	}
	i.Time = at
	return nil
}

func (c *verifyCommand) Run(p *program) error {
	v, err := c.verifier(p)
	if err != nil {
		return err
	}
	if c.NDJSON {
		return v.lines(p.in, p.out)
	}
	raw, err := readToken(p.in)
	if err != nil {
		return err
	}
	result, valid := v.verify(nil, raw)
	fmt.Fprintf(p.out, "%s}\n", result)
	if !valid {
		return errRefused
	}
	return nil
}

func (c *verifyCommand) verifier(p *program) (*verifier, error) {
	keys, err := keyset.Load(c.Keys)
	if err != nil {
		return nil, fmt.Errorf("--keys: %w", err)
	}
	unseal, err := unsealer(c.UnsealKey)
	if err != nil {
		return nil, err
	}
	inner, err := handoff.NewVerifier(handoff.VerifierConfig{
		Unseal:   unseal,
		Audience: c.Audience, Issuers: map[string]handoff.KeySource{c.Issuer: listed{keys}}, Store: noStore{}, Now: clockAt(p, c.At),
	})
	if err != nil {
		return nil, flagOf(err)
	}
	v := &verifier{Verifier: inner, unseal: unseal}
	if v.from, err = readCertificate(c.Certificate); err != nil {
		return nil, err
	}
	if c.Method == "" && len(c.Field) > 0 {
		return nil, errors.New("--field: it needs --method")
	}
	if c.Method != "" {
		op, err := parseOperation(c.Method, c.Field)
		if err != nil {
			return nil, err
		}
		v.op = &op
	}
	return v, nil
}

// noStore is the store of a verifier that never redeems.
type noStore struct{}

func (noStore) Redeem(context.Context, handoff.Redemption) error {
	return errors.New("this command redeems nothing")
}

// listed is a source of keys that stands for a trust list on which nothing is taken
// back, so that visits are verified too.
type listed struct{ handoff.KeySource }

func (l listed) Key(ctx context.Context, kid string) (handoff.Key, error) {
	key, err := l.KeySource.Key(ctx, kid)
	return key.WithRevocations(l), err
}

func (listed) Revoked(context.Context, *handoff.Claims) error { return nil }

// verifier makes every check but the redemption.
type verifier struct {
	*handoff.Verifier
	unseal func(string) (string, error) // nil: there is no key
	op     *handoff.Operation           // nil: any
	from   *x509.Certificate            // nil: none
}

// verify appends the result for one token to b, without the closing brace.
func (v *verifier) verify(b []byte, raw string) (result []byte, valid bool) {
	verified, err := v.VerifyAny(context.Background(), raw, v.from)
	if err == nil && v.op != nil {
		visit := verified.Kind() == handoff.KindVisit
		err = verified.Allows(*v.op, handoff.Rule{Reusable: visit, Visit: visit, Actors: true}) // what the method's rule says is not known here
	}
	if b == nil {
		b = append(b, '{')
	}
	if err != nil {
		return appendRefusal(b, raw, err), false
	}
	if sealed.Is(raw) { // which has verified, and so it opens
		if raw, err = v.unseal(raw); err != nil {
			return appendRefusal(b, raw, err), false
		}
	}
	b = append(b, `"valid":true,"claims":`...)
	return append(b, claimsOf(raw)...), true
}

func appendRefusal(b []byte, raw string, err error) []byte {
	var refusal *handoff.Refusal
	if !errors.As(err, &refusal) {
		refusal = &handoff.Refusal{Reason: handoff.ReasonTokenInvalid, Err: err}
	}
	detail := refusal.Detail
	if refusal.Err != nil {
		detail = strings.TrimPrefix(detail+": "+refusal.Err.Error(), ": ")
	}
	if found := pasted(raw); found != "" {
		detail += "; " + found
	}
	b = append(b, `"valid":false`...)
	for _, m := range [...]struct{ name, value string }{
		{"reason", refusal.Reason.String()}, {"check", string(refusal.Check)}, {"detail", detail},
	} {
		b = append(b, `,"`+m.name+`":`...)
		b = appendQuoted(b, m.value)
	}
	return b
}

// claimsOf returns the payload of a token that has verified, on one line.
func claimsOf(raw string) []byte {
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	value := jsontext.Value(payload)
	if err == nil {
		err = value.Compact()
	}
	if err != nil {
		panic("a payload that has verified is strict JSON in base64url: " + err.Error())
	}
	return []byte(visible(string(value)))
}

// readToken reads one token and the line feed after it, if there is one. What is
// too long for a line is too long for a token, too: it is cut, and refused.
func readToken(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxLine))
	if err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	raw := strings.TrimSuffix(string(text), "\n")
	if raw == "" {
		return "", errors.New("standard input: no token")
	}
	return raw, nil
}

// maxLine is the longest line that is read, in bytes.
const maxLine = 16 << 20

// lines answers each line of in with one on out.
func (v *verifier) lines(in io.Reader, out io.Writer) error {
	r := bufio.NewReaderSize(in, 64<<10)
	var line, result []byte
	for n := 1; ; n++ {
		var err error
		line, err = appendLine(line[:0], r)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if strings.TrimSpace(string(line)) == "" { // it says nothing that could be missed
			continue
		}
		id, raw, err := parseLine(string(line))
		if err != nil {
			return fmt.Errorf(`line %d: not an object {"id":"…","token":"…"}: %w`, n, err)
		}
		result = append(result[:0], `{"id":`...)
		result = append(appendQuoted(result, id), ',')
		result, _ = v.verify(result, raw)
		if _, err := out.Write(append(result, "}\n"...)); err != nil {
			return err
		}
	}
}

// appendLine reads one line without its end. The last need not have one.
func appendLine(line []byte, r *bufio.Reader) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		case err == nil:
			return line[:len(line)-1], nil
		case err == io.EOF && len(line) > 0:
			return line, nil
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}

func parseLine(line string) (id, raw string, err error) {
	var hasID, hasToken bool
	err = strictjson.Read(line, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "id":
				hasID = true
				id, err = r.String()
			case "token":
				hasToken = true
				raw, err = r.String()
			default:
				err = errors.New("it has another member")
			}
			return err
		})
	})
	if err == nil && !(hasID && hasToken) {
		err = errors.New("a member is missing")
	}
	return id, raw, err
}
