package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// oneList is a feed of one list, for a follower that is asked only about it.
type oneList struct{ statement, entries string }

// Follow delivers the list.
func (o oneList) Follow(ctx context.Context, _ string, deliver func(statement string, fetch trust.Fetch) error) error {
	if err := deliver(o.statement, trust.Given(o.entries)); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// follow has a follower judge one list: its own checks, in its own order.
func follow(config trust.FollowerConfig, l oneList) (verdict trust.Event, err error) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	config.Feed = l
	config.Report = func(event trust.Event) {
		if ctx.Err() == nil {
			verdict = event
			stop()
		}
	}
	f, err := trust.NewFollower(config)
	if err != nil {
		return verdict, err
	}
	f.Run(ctx) // until it has reported
	return verdict, nil
}

// fault is what is wrong with a list.
type fault struct {
	Fault  trust.Fault   `json:"fault"`
	Check  handoff.Check `json:"check,omitempty"`
	Detail string        `json:"detail"`
}

func faultOf(event trust.Event) fault {
	return fault{event.Fault, event.Check, event.Err.Error()}
}

// diagnoseList finds what is wrong with a list, as far as one can tell without the
// trust key: its form is judged as it is, and what it says under a signature of
// our own, with a key that is forgotten at once.
func diagnoseList(l oneList, now time.Time) []fault {
	faults := []fault{}
	raw := l.statement
	_, _, err := trust.Profile().Open(context.Background(), raw, noKeys{})
	if refusal, ok := errors.AsType[*handoff.Refusal](err); ok && !errors.Is(err, errNoKeys) {
		faults = append(faults, fault{trust.FaultSignature, refusal.Check, refusal.Detail})
	}
	var payload part
	if parts := strings.Split(raw, "."); len(parts) == 3 {
		payload = decodePart(parts[1])
	}
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		return faults
	}
	resigned, err := trust.Profile().Seal(context.Background(), []byte(payload.decoded), key)
	if err != nil { // too long, which is known by now
		return faults
	}
	config := trust.FollowerConfig{
		Issuer: payload.text("iss"), TrustKeys: []handoff.Key{key.Key()}, MaxStaleness: trust.MaxListLifetime,
		Now: func() time.Time { return now },
	}
	event, err := follow(config, oneList{resigned, l.entries})
	if err != nil { // iss cannot be a name, which the list is refused for
		config.Issuer = "nobody"
		event, err = follow(config, oneList{resigned, l.entries})
	}
	unknown := event.Fault == trust.FaultEntries && l.entries == "" // which may be elsewhere
	if err == nil && event.Fault != "" && !unknown && (event.Fault != trust.FaultSignature || len(faults) == 0) {
		faults = append(faults, faultOf(event))
	}
	return faults
}

// summary is a list without the length of it.
type summary struct {
	Valid     *bool           `json:"valid,omitempty"`
	Verified  *bool           `json:"verified,omitempty"`
	Header    json.RawMessage `json:"header"`
	Claims    *listClaims     `json:"claims"`
	Keys      []listedKey     `json:"keys"`
	Entries   string          `json:"revoked_sha256,omitempty"`
	Revoked   *revokedCounts  `json:"revoked"`
	Age       *int64          `json:"age_seconds,omitempty"`
	ExpiresIn *int64          `json:"expires_in_seconds,omitempty"`
	Faults    []fault         `json:"faults,omitempty"`
}

type listClaims struct {
	Issuer   string `json:"iss"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	Seq      int64  `json:"seq"`
}

type listedKey struct {
	Kid string            `json:"kid"`
	Alg handoff.Algorithm `json:"alg"`
}

type revokedCounts struct {
	Tokens   int `json:"tokens"`
	Sessions int `json:"sessions"`
	Subjects int `json:"subjects"`
	// All is the moment up to which every token is taken back.
	All int64 `json:"all,omitempty"`
}

// summarize reads a list as far as it can be read. It checks nothing.
func summarize(l oneList, now time.Time) (s summary) {
	parts := strings.Split(l.statement, ".")
	if len(parts) != 3 {
		return s
	}
	s.Header = decodePart(parts[0]).line()
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return s
	}
	if claims := new(listClaims); json.Unmarshal(payload, claims) == nil {
		s.Claims = claims
		if isTime(claims.IssuedAt) && isTime(claims.Expires) {
			age, left := now.Unix()-claims.IssuedAt, claims.Expires-now.Unix()
			s.Age, s.ExpiresIn = &age, &left
		}
	}
	var members struct {
		Keys    jsontext.Value
		Entries string `json:"revoked_sha256"`
	}
	if json.Unmarshal(payload, &members) != nil {
		return s
	}
	s.Entries = members.Entries
	if set, err := keyset.Parse([]byte(`{"keys":` + string(members.Keys) + `}`)); err == nil {
		for _, k := range set.Keys() {
			s.Keys = append(s.Keys, listedKey{k.ID(), k.Algorithm()})
		}
	}
	text := l.entries
	if none := `{"tokens":[],"sessions":[],"subjects":{}}`; text == "" && s.Entries == digestOf(none) {
		text = none
	}
	var r struct {
		All              int64
		Tokens, Sessions []string
		Subjects         map[string]int64
	}
	if json.Unmarshal([]byte(text), &r) == nil {
		s.Revoked = &revokedCounts{len(r.Tokens), len(r.Sessions), len(r.Subjects), r.All}
	}
	return s
}

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func isTime(seconds int64) bool { return seconds >= 0 && seconds < 1<<33 } // the year 2242

// line returns the part as it stands, on one line.
func (p part) line() json.RawMessage {
	if p.value == nil {
		return nil
	}
	var b bytes.Buffer
	if json.Compact(&b, []byte(strings.ToValidUTF8(string(p.value), "\ufffd"))) != nil {
		return nil
	}
	return b.Bytes()
}

// explainList says of a JWT that calls itself a trust list what it is worth as
// one.
func explainList(out io.Writer, l oneList, now time.Time) {
	fmt.Fprintln(out, "It calls itself a trust list: an issuer's statement of the keys that may sign now, and of what it has taken back.")
	if s := summarize(l, now); s.Age != nil && s.Revoked == nil {
		fmt.Fprintf(out, "It names %d keys, and entries by their digest, which it does not have with it. It was signed %s ago, and expires in %s.\n",
			len(s.Keys), seconds(*s.Age), seconds(*s.ExpiresIn))
	} else if s.Age != nil {
		fmt.Fprintf(out, "It names %d keys, and takes back %d tokens, %d sessions and %d subjects. It was signed %s ago, and expires in %s.\n",
			len(s.Keys), s.Revoked.Tokens, s.Revoked.Sessions, s.Revoked.Subjects, seconds(*s.Age), seconds(*s.ExpiresIn))
	}
	faults := diagnoseList(l, now)
	if len(faults) == 0 {
		fmt.Fprintln(out, "As a trust list nothing is wrong with it, as far as one can tell without the trust key. It may be too old for a follower.")
		return
	}
	fmt.Fprintln(out, "As a trust list it is refused:")
	for _, f := range faults {
		if f.Check != "" {
			f.Fault += trust.Fault(" (" + string(f.Check) + ")")
		}
		fmt.Fprintf(out, "  %s: %s\n", f.Fault, f.Detail)
	}
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
