package handoff_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// judge is a second opinion on a token that client sends: what SPEC.md says, written
// again over go-jose and encoding/json. It is slow, and shares no code with the verifier.
type judge struct {
	key *forge.Key
	at  time.Time
}

// claims returns what raw says if it is a token of shop for billing that is in
// the profile at the judge's time, or else why not.
func (j judge) claims(raw string) (*handoff.Claims, error) {
	if len(raw) > 4096 {
		return nil, errors.New("too long")
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || len(parts[0]) > 2048 {
		return nil, errors.New("not three parts, or a long header")
	}
	var texts [3]string
	for i, part := range parts {
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil || len(b) == 0 || base64.RawURLEncoding.EncodeToString(b) != part {
			return nil, errors.New("a part is empty or another spelling")
		}
		texts[i] = string(b)
	}
	signed, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(j.key.Algorithm)})
	if err != nil {
		return nil, err
	}
	if payload, err := signed.Verify(j.key.Private.Public()); err != nil || string(payload) != texts[1] {
		return nil, fmt.Errorf("go-jose does not verify it: %w", err)
	}
	header, err := object(texts[0])
	if err != nil {
		return nil, err
	}
	typ, most := "handoff+jwt", 300*time.Second
	if header["typ"] == "handoff-visit+jwt" {
		typ, most = "handoff-visit+jwt", time.Hour
	}
	if !maps.Equal(header, map[string]any{"alg": string(j.key.Algorithm), "typ": typ, "kid": j.key.Public.ID()}) {
		return nil, errors.New("another header")
	}
	payload, err := object(texts[1])
	if err != nil {
		return nil, err
	}
	return j.payload(payload, most)
}

var (
	nameForm   = regexp.MustCompile(`^[!#-\[\]-~]{1,255}$`)
	randomForm = regexp.MustCompile(`^[A-Za-z0-9_-]{21}[AQgw]$`)
	digestForm = regexp.MustCompile(`^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$`)
	numberForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,15})$`)
	methodForm = regexp.MustCompile(`^/[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*/[A-Za-z_][A-Za-z0-9_]*$`)
)

func (j judge) payload(payload map[string]any, most time.Duration) (*handoff.Claims, error) {
	r := reading{members: payload}
	c := &handoff.Claims{
		Issuer: r.text("iss", nameForm), Audience: r.text("aud", nameForm), Subject: r.text("sub", nameForm), ID: r.text("jti", randomForm),
		IssuedAt: r.seconds("iat"), Expires: r.seconds("exp"),
	}
	if _, ok := payload["nbf"]; ok {
		c.NotBefore = r.seconds("nbf")
	}
	visit := most == time.Hour
	if _, ok := payload["sid"]; ok || visit {
		c.Session = r.text("sid", randomForm)
	}
	if _, ok := payload["cnf"]; ok {
		members, _ := r.take("cnf").(map[string]any)
		cnf := reading{members: members}
		c.CertificateSHA256 = cnf.text("x5t#S256", digestForm)
		cnf.none()
		sum := sha256.Sum256(client.Raw)
		r.check(cnf.err == nil && c.CertificateSHA256 == base64.RawURLEncoding.EncodeToString(sum[:]), "cnf")
	}
	if _, ok := payload["act"]; ok {
		act, _ := r.take("act").(map[string]any)
		inner := reading{members: act}
		c.Actor = inner.text("sub", nameForm)
		inner.none()
		r.check(inner.err == nil, "act")
	}
	details, _ := r.take("authorization_details").([]any)
	r.check(len(details) == 1, "authorization_details")
	r.none()
	if r.err != nil {
		return nil, r.err
	}
	lifetime := c.Expires.Sub(c.IssuedAt)
	switch skewed := j.at.Add(5 * time.Second); {
	case c.Issuer != shop || c.Audience != billing:
		return nil, errors.New("another issuer or audience")
	case lifetime <= 0 || lifetime > most || !j.at.Before(c.Expires):
		return nil, errors.New("expired, or a lifetime out of range")
	case c.IssuedAt.After(skewed) || c.NotBefore.After(skewed) || !c.NotBefore.Before(c.Expires):
		return nil, errors.New("not yet valid")
	}

	detail, ok := details[0].(map[string]any)
	if !ok {
		return nil, errors.New("authorization_details holds no object")
	}
	r = reading{members: detail}
	if visit {
		return c, r.visit(c)
	}
	r.check(r.take("type") == "grpc_call", "type")
	actions, _ := r.take("actions").([]any)
	r.check(len(actions) == 1, "actions")
	if r.err == nil {
		method, _ := actions[0].(string)
		r.check(methodForm.MatchString(method) && len(method) <= 255, "method")
		c.Method = method
	}
	if _, ok := detail["fields"]; ok {
		fields, ok := r.take("fields").(map[string]any)
		r.check(ok && len(fields) <= 64 && canonicalLength(fields) <= 1024, "fields")
		for path, value := range fields {
			text, ok := value.(string)
			r.check(ok, "a field")
			c.Fields = append(c.Fields, handoff.Field{Path: path, Value: text})
		}
		slices.SortFunc(c.Fields, func(a, b handoff.Field) int {
			return slices.Compare(utf16.Encode([]rune(a.Path)), utf16.Encode([]rune(b.Path)))
		})
	} else {
		c.FieldsSHA256 = r.text("fields_sha256", digestForm)
	}
	r.none()
	return c, r.err
}

// visit reads what a visit is for.
func (r *reading) visit(c *handoff.Claims) error {
	r.check(r.take("type") == "grpc_visit", "type")
	actions, _ := r.take("actions").([]any)
	r.check(len(actions) >= 1 && len(actions) <= 32, "actions")
	for _, action := range actions {
		method, _ := action.(string)
		r.check(methodForm.MatchString(method) && len(method) <= 255 && !slices.Contains(c.Methods, method), "method")
		c.Methods = append(c.Methods, method)
	}
	r.none()
	return r.err
}

// canonicalLength is the length of value as RFC 8785 writes it.
func canonicalLength(value any) int {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	canonical := jsontext.Value(text)
	if err := canonical.Canonicalize(); err != nil {
		panic(err)
	}
	return len(canonical)
}

// reading takes the members out of an object, each once, and keeps the first
// complaint.
type reading struct {
	members map[string]any
	err     error
}

func (r *reading) check(ok bool, what string) {
	if !ok {
		r.err = cmp.Or(r.err, fmt.Errorf("%s is out of range", what))
	}
}

func (r *reading) take(name string) any {
	value := r.members[name]
	delete(r.members, name)
	return value
}

func (r *reading) text(name string, form *regexp.Regexp) string {
	text, ok := r.take(name).(string)
	r.check(ok && form.MatchString(text), name)
	return text
}

func (r *reading) seconds(name string) time.Time {
	number, ok := r.take(name).(json.Number)
	r.check(ok && numberForm.MatchString(number.String()), name)
	n, err := strconv.ParseInt(number.String(), 10, 64)
	r.check(err == nil && n <= 253402300799, name)
	return time.Unix(n, 0).UTC()
}

func (r *reading) none() { r.check(len(r.members) == 0, "a member too many") }

// object reads text as one strict JSON object.
func object(text string) (map[string]any, error) {
	if !json.Valid([]byte(text)) || !utf8.ValidString(text) || !pairedSurrogates(text) {
		return nil, errors.New("not JSON in UTF-8")
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	value, err := unique(d)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	members, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return members, nil
}

// unique reads a value in which no object has a name twice.
func unique(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		members := map[string]any{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			if _, twice := members[name.(string)]; twice {
				return nil, errors.New("a name occurs twice")
			}
			if members[name.(string)], err = unique(d); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return members, err
	case json.Delim('['):
		elements := []any{}
		for d.More() {
			element, err := unique(d)
			if err != nil {
				return nil, err
			}
			elements = append(elements, element)
		}
		_, err = d.Token()
		return elements, err
	}
	return token, nil
}

var unicodeEscape = regexp.MustCompile(`(?i)\\(u[0-9a-f]{4}|.)`)

// pairedSurrogates reports whether each escaped surrogate of valid JSON has its
// other half.
func pairedSurrogates(text string) bool {
	high := -1 // where the low half must begin
	for _, at := range unicodeEscape.FindAllStringIndex(text, -1) {
		var unit uint64
		if escape := text[at[0]:at[1]]; len(escape) == 6 {
			unit, _ = strconv.ParseUint(escape[2:], 16, 16)
		}
		low := unit >= 0xdc00 && unit < 0xe000
		if low != (high == at[0]) || high >= 0 && high != at[0] {
			return false
		}
		high = -1
		if unit >= 0xd800 && unit < 0xdc00 {
			high = at[1]
		}
	}
	return high < 0
}

// agree asserts that the judge accepts what the verifier accepts and reads the
// same in it.
func (j judge) agree(t testing.TB, raw string, verified *handoff.Verified) {
	t.Helper()
	want, err := j.claims(raw)
	if err != nil {
		t.Fatalf("accepted, but %v: %q", err, raw)
	}
	got := verified.Claims()
	if len(got.Fields) == 0 {
		got.Fields = nil
	}
	if !reflect.DeepEqual(got, *want) {
		t.Fatalf("read as %+v, want %+v", got, *want)
	}
}

// The judge knows a good token and each hostile one from another: else what it
// says of the generated ones would say nothing.
func TestJudge(t *testing.T) {
	for _, algorithm := range []handoff.Algorithm{handoff.EdDSA, handoff.ES256} {
		b := newBench(t, algorithm)
		j := judge{b.key, now}
		raw := b.good().Compact()
		verified, err := b.verifier.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		j.agree(t, raw, verified)
		raw = b.visit().Compact()
		if verified, err = b.verifier.VerifyAny(t.Context(), raw, nil); err != nil {
			t.Fatal(err)
		}
		j.agree(t, raw, verified)
		for _, attack := range forge.VisitAttacks() {
			if claims, err := j.claims(attack.Forge(b.visit())); err == nil {
				t.Errorf("%s %s (%s): the judge accepts %v", attack.ID, attack.Name, algorithm, claims)
			}
		}
		for _, attack := range forge.Attacks() {
			if attack.Algorithm != "" && attack.Algorithm != algorithm {
				continue
			}
			if claims, err := j.claims(attack.Forge(b.good())); err == nil {
				t.Errorf("%s %s (%s): the judge accepts %v", attack.ID, attack.Name, algorithm, claims)
			}
		}
	}
}
