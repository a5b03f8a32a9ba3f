package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/keyset"
)

const (
	issuer   = "https://shop.example"
	audience = "https://billing.example"
	pay      = "/billing.v1.Billing/Pay"
)

// bench is a key set in a file, and a good token for it.
type bench struct {
	good forge.Token
	keys string
}

func newBench(t testing.TB, algorithm handoff.Algorithm) bench {
	t.Helper()
	key := forge.NewKey(algorithm)
	set, err := keyset.New(key.Public)
	if err != nil {
		t.Fatal(err)
	}
	text, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "shop.jwks")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return bench{keys: path, good: forge.Good(forge.Params{
		Key: key, Issuer: issuer, Audience: audience, Subject: "user-7", IssuedAt: now,
		Operation: handoff.Operation{Method: pay, Bound: []handoff.Field{{Path: "amount", Value: "1200"}, {Path: "invoice", Value: "INV-42"}}},
	})}
}

func (b bench) args(more ...string) []string {
	return append([]string{"verify", "--keys", b.keys, "--issuer", issuer, "--audience", audience}, more...)
}

// answer is a line of the command's output.
type answer struct {
	ID     string
	Valid  bool
	Claims map[string]any
	Reason string
	Check  handoff.Check
	Detail string
}

func decodeAnswer(t testing.TB, line string) answer {
	t.Helper()
	var a answer
	d := json.NewDecoder(strings.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil || !strings.HasSuffix(line, "}\n") || strings.Count(line, "\n") != 1 {
		t.Fatalf("not one JSON object on one line: %q %v", line, err)
	}
	return a
}

func TestVerify(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	raw := b.good.Compact()
	spaced := b.good.Text(b.good.Header.String(), strings.ReplaceAll(b.good.Payload.String(), ",", ",\n\t"))
	bidi := b.good.WithDetails(forge.Details(handoff.Operation{
		Method: pay, Bound: []handoff.Field{{Path: "memo", Value: "a\u202eb\u009b\U000e0001"}},
	})).Compact()
	acting := b.good.WithClaim("act", `{"sub":"robot"}`).Compact()
	fields := []string{"--method", pay, "--field", "amount=1200", "--field", "invoice=INV-42"}
	for name, c := range map[string]struct {
		stdin string
		args  []string
		check handoff.Check // empty: accepted
	}{
		"good":               {stdin: raw},
		"with a line break":  {stdin: raw + "\n"},
		"B05 CR":             {stdin: raw + "\r\n", check: "token.base64url"},
		"B09 32 MiB":         {stdin: raw + strings.Repeat("A", 32<<20), check: "token.length"},
		"two line breaks":    {stdin: raw + "\n\n", check: "token.base64url"},
		"a space":            {stdin: raw + " ", check: "token.base64url"},
		"spaced payload":     {stdin: spaced},
		"hidden characters":  {stdin: bidi},
		"of an actor":        {stdin: acting, args: fields}, // whom the rule may allow
		"its operation":      {stdin: raw, args: fields},
		"another order":      {stdin: raw, args: []string{"--method", pay, "--field", "invoice=INV-42", "--field", "amount=1200"}},
		"another value":      {stdin: raw, args: append(fields[:4:4], "--field", "invoice=INV-43"), check: "operation.value"},
		"a field less":       {stdin: raw, args: fields[:4], check: "operation.value"},
		"a field more":       {stdin: raw, args: append(fields[:6:6], "--field", "memo=x"), check: "operation.unnamed"},
		"another method":     {stdin: raw, args: []string{"--method", pay + "s"}, check: "operation.method"},
		"the last second":    {stdin: raw, args: []string{"--at", "1767225659"}},
		"expired":            {stdin: raw, args: []string{"--at", "1767225660"}, check: "verify.exp"},
		"expired, RFC 3339":  {stdin: raw, args: []string{"--at", "2026-01-01T01:01:00+01:00"}, check: "verify.exp"},
		"not yet":            {stdin: raw, args: []string{"--at", "2025-12-31T23:59:00Z"}, check: "verify.iat"},
		"another audience":   {stdin: raw, args: []string{"--audience", audience + "/"}, check: "verify.aud"},
		"another issuer":     {stdin: raw, args: []string{"--issuer", issuer + "/"}, check: "verify.iss"},
		"longer than 4 KiB":  {stdin: raw + strings.Repeat("A", 4096), check: "token.length"},
		"not a token at all": {stdin: "hello", check: "token.parts"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errOut := invoke(t, c.stdin, b.args(c.args...)...)
			if errOut != "" {
				t.Fatal(errOut)
			}
			a := decodeAnswer(t, out)
			if a.Check != c.check || a.Valid != (c.check == "") || (status == exitDone) != a.Valid || !a.Valid && status != exitRefused {
				t.Errorf("status %d, %s", status, out)
			}
			if a.Valid && (a.Claims["sub"] != "user-7" || a.Claims["exp"] != 1767225660.0) {
				t.Errorf("other claims: %v", a.Claims)
			}
			if !a.Valid && (a.Reason == "" || a.Detail == "" || a.Claims != nil) {
				t.Errorf("refused without saying why: %s", out)
			}
			if strings.ContainsAny(out, "\u202e\u009b\U000e0001\x1b") {
				t.Errorf("hidden characters reach the terminal: %q", out)
			}
		})
	}
}

// Every attack of groups A to D that comes in as a token is refused, and the
// check that is its own is named; the control is accepted. Package handoff does
// the same with keys of every algorithm.
func TestVerifyAttacks(t *testing.T) {
	for _, algorithm := range []handoff.Algorithm{handoff.EdDSA, handoff.ES256} {
		t.Run(string(algorithm), func(t *testing.T) {
			b := newBench(t, algorithm)
			var stdin bytes.Buffer
			var want []forge.Hostile
			for _, hostile := range forge.Attacks() {
				if hostile.Algorithm != "" && hostile.Algorithm != algorithm {
					continue
				}
				raw := hostile.Forge(b.good)
				if !utf8.ValidString(raw) || len(raw) > maxLine {
					continue // it cannot stand in a line of JSON
				}
				fmt.Fprintf(&stdin, "{\"id\":%s,\"token\":%s}\n", forge.Quote(hostile.Name), forge.Quote(raw))
				want = append(want, hostile)
			}
			fmt.Fprintf(&stdin, "{\"token\":%s,\"id\":\"control\"}", forge.Quote(b.good.Compact()))

			status, out, errOut := invoke(t, stdin.String(), b.args("--ndjson")...)
			if status != exitDone || errOut != "" {
				t.Fatalf("status %d, %s", status, errOut)
			}
			lines := strings.SplitAfter(strings.TrimSuffix(out, "\n"), "\n")
			if len(lines) != len(want)+1 || len(want) < 100 {
				t.Fatalf("%d lines for %d attacks", len(lines), len(want))
			}
			for i, hostile := range want {
				a := decodeAnswer(t, lines[i])
				if a.Valid || a.ID != hostile.Name || a.Check != hostile.Check || a.Reason != hostile.Reason.String() {
					t.Errorf("%s %s: %s, want %s", hostile.ID, hostile.Name, lines[i], hostile.Check)
				}
			}
			if a := decodeAnswer(t, lines[len(want)]+"\n"); !a.Valid || a.ID != "control" {
				t.Errorf("the control: %s", lines[len(want)])
			}
		})
	}
}

// Each line is answered before the next one comes.
func TestNDJSONAnswersAtOnce(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan int, 1)
	go func() {
		p := &program{in: inR, out: outW, err: io.Discard, now: func() time.Time { return now }}
		done <- run(b.args("--ndjson"), p)
	}()
	out := bufio.NewReader(outR)
	for _, id := range []string{"1", "zwei \u2028 \"", ""} {
		if _, err := fmt.Fprintf(inW, "{\"id\":%s,\"token\":%q}\n", forge.Quote(id), b.good.Compact()); err != nil {
			t.Fatal(err)
		}
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if a := decodeAnswer(t, line); !a.Valid || a.ID != id {
			t.Errorf("%s", line)
		}
	}
	inW.Close()
	if status := <-done; status != exitDone {
		t.Errorf("status %d", status)
	}
}

// What was answered before a bad line stands, and the line is named.
func TestNDJSONStopsAtABadLine(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	good := fmt.Sprintf("{\"id\":\"a\",\"token\":%q}\n", b.good.Compact())
	status, out, errOut := invoke(t, good+good+"oops\n"+good, b.args("--ndjson")...)
	if status != exitUsage || strings.Count(out, "\n") != 2 || !strings.Contains(errOut, "line 3:") {
		t.Errorf("status %d, %s%s", status, out, errOut)
	}
	if status, out, _ := invoke(t, "", b.args("--ndjson")...); status != exitDone || out != "" {
		t.Errorf("no lines: status %d, %s", status, out)
	}
	if status, out, _ := invoke(t, strings.TrimSuffix(good, "\n"), b.args("--ndjson")...); status != exitDone || strings.Count(out, "\n") != 1 {
		t.Errorf("no line break at the end: status %d, %s", status, out)
	}
}

// The issue asks for 40,000 malformed tokens a second on one core: 25 us each.
func BenchmarkVerifyMalformed(b *testing.B) {
	bench := newBench(b, handoff.EdDSA)
	header, payload, signature := bench.good.Parts()
	other := bench.good.WithHeader("kid", forge.Quote(strings.Repeat("A", 43)))
	var block strings.Builder
	const lines = 6
	for i, raw := range []string{
		header + "." + payload, header + "=." + payload + "." + signature, strings.Repeat("A", 5000),
		bench.good.WithHeader("jku", `"https://evil.example"`).Compact(), bench.good.WithHeader("typ", `"JWT"`).Compact(), other.Compact(),
	} {
		fmt.Fprintf(&block, "{\"id\":\"%d\",\"token\":%q}\n", i, raw)
	}
	v, err := (&verifyCommand{Keys: bench.keys, Issuer: issuer, Audience: audience}).verifier(&program{now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	in := strings.NewReader(strings.Repeat(block.String(), 1000))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		if err := v.lines(in, io.Discard); err != nil {
			b.Fatal(err)
		}
		n += 1000 * lines
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
}
