package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/trust"
)

// lists are the frozen vectors of package trust.
type lists struct {
	Issuer    string
	Now       int64
	TrustKeys json.RawMessage `json:"trust_keys"`
	InForce   string          `json:"in_force"`
	Lists     []struct {
		Name, List string
		Fault      trust.Fault
		Check      handoff.Check
		Tokens     []struct{ Revoked bool }
	}
	keys string // the file
}

func readLists(t testing.TB) (v lists) {
	t.Helper()
	text, err := os.ReadFile("../../trust/testdata/lists.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil || len(v.Lists) < 20 {
		t.Fatal(len(v.Lists), err)
	}
	v.keys = filepath.Join(t.TempDir(), "trust.jwks")
	if err := os.WriteFile(v.keys, v.TrustKeys, 0o600); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v lists) verify(more ...string) []string {
	return append([]string{"trust", "verify", "--trust-key", v.keys, "--issuer", v.Issuer, "--at", strconv.FormatInt(v.Now, 10)}, more...)
}

// verdict is what the commands print.
type verdict struct {
	Valid, Verified *bool
	Header          map[string]any
	Claims          *struct {
		Iss           string
		Iat, Exp, Seq int64
	}
	Keys    []struct{ Kid, Alg string }
	Entries string `json:"revoked_sha256"`
	Revoked *struct{ Tokens, Sessions, Subjects int }
	Age     int64 `json:"age_seconds"`
	Left    int64 `json:"expires_in_seconds"`
	Fault   trust.Fault
	Check   handoff.Check
	Detail  string
	Faults  []fault
}

func readVerdict(t testing.TB, out string) (v verdict) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil || strings.Count(out, "\n") != 1 {
		t.Fatalf("not one JSON object on one line: %q %v", out, err)
	}
	return v
}

// Each vector is judged as a follower judges it that holds no list yet: for its
// fault and check.
func TestTrustVerify(t *testing.T) {
	v := readLists(t)
	for _, list := range v.Lists {
		if list.Fault == trust.FaultRolledBack { // which only a follower can see
			list.Fault = ""
		}
		t.Run(list.Name, func(t *testing.T) {
			status, out, errOut := invoke(t, list.List+"\n", v.verify()...)
			if list.List == "" {
				if status != exitUsage || !strings.Contains(errOut, "standard input") {
					t.Errorf("status %d, %s", status, errOut)
				}
				return
			}
			got := readVerdict(t, out)
			valid := list.Fault == ""
			if errOut != "" || got.Valid == nil || *got.Valid != valid || got.Fault != list.Fault || list.Check != "" && got.Check != list.Check {
				t.Fatalf("status %d, %s%s", status, out, errOut)
			}
			if valid {
				want := 0
				if slices.ContainsFunc(list.Tokens, func(token struct{ Revoked bool }) bool { return token.Revoked }) {
					want = 1
				}
				if status != exitDone || got.Claims.Iss != v.Issuer || len(got.Keys) != 1 || len(got.Header) != 3 ||
					got.Revoked.Tokens != want || got.Revoked.Sessions != want || got.Revoked.Subjects != want ||
					got.Age != v.Now-got.Claims.Iat || got.Left != got.Claims.Exp-v.Now || got.Claims.Seq == 0 {
					t.Errorf("status %d, %s", status, out)
				}
			} else if status != exitRefused || got.Detail == "" || got.Header != nil {
				t.Errorf("status %d, %s", status, out)
			}
		})
	}
}

// A list is as good from a file, with a line feed at its end or without, as to a
// follower.
func TestTrustVerifyFile(t *testing.T) {
	v := readLists(t)
	file := filepath.Join(t.TempDir(), "shop.trust")
	for text, want := range map[string]int{v.InForce: exitDone, v.InForce + "\n": exitDone, v.InForce + "\n\n": exitDone, v.InForce + " ": exitRefused, v.InForce + "\r\n": exitRefused, "\n" + v.InForce: exitRefused, "": exitRefused, v.InForce + strings.Repeat("A", 17<<20): exitRefused} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, out, errOut := invoke(t, "", v.verify(file)...); status != want {
			t.Errorf("%d bytes: status %d, want %d: %s%s", len(text), status, want, out, errOut)
		}
	}
	if _, out, _ := invoke(t, v.InForce+strings.Repeat("A", 17<<20), v.verify("-")...); readVerdict(t, out).Check != "token.length" {
		t.Error(out)
	}
}

// The ages that a follower does not tolerate, and two trust keys while one
// changes.
func TestTrustVerifySettings(t *testing.T) {
	v := readLists(t)
	other := filepath.Join(t.TempDir(), "other")
	for _, args := range [][]string{{"keygen", "--out", other + ".key"}, {"public", "--key", other + ".key", "--out", other + ".jwks"}} {
		if status, _, errOut := invoke(t, "", args...); status != exitDone {
			t.Fatal(errOut)
		}
	}
	at := func(seconds int64) string { return strconv.FormatInt(v.Now+seconds, 10) }
	for name, c := range map[string]struct {
		args  []string
		fault trust.Fault
	}{
		"9 s old":          {args: v.verify("--at", at(9))},
		"10 s old":         {args: v.verify("--at", at(10)), fault: trust.FaultStale},
		"10 s tolerated":   {args: v.verify("--at", at(10), "--max-staleness", "11s")},
		"a minute old":     {args: v.verify("--at", at(60), "--max-staleness", "1h"), fault: trust.FaultExpired},
		"5 s ahead":        {args: v.verify("--at", at(-5))},
		"6 s ahead":        {args: v.verify("--at", at(-6)), fault: trust.FaultFuture},
		"6 s excused":      {args: v.verify("--at", at(-6), "--skew", "6s")},
		"two trust keys":   {args: v.verify("--trust-key", other+".jwks")},
		"another's":        {args: []string{"trust", "verify", "--trust-key", other + ".jwks", "--issuer", v.Issuer, "--at", at(0)}, fault: trust.FaultSignature},
		"another's issuer": {args: v.verify("--issuer", v.Issuer+"/"), fault: trust.FaultIssuer},
	} {
		status, out, errOut := invoke(t, v.InForce, c.args...)
		if got := readVerdict(t, out); got.Fault != c.fault || (status == exitDone) != (c.fault == "") {
			t.Errorf("%s: status %d, %s%s", name, status, out, errOut)
		}
	}
}

// inspect, both of them, finds every fault that shows without the trust key, and
// in a good list none.
func TestTrustInspect(t *testing.T) {
	v := readLists(t)
	at := strconv.FormatInt(v.Now, 10)
	for _, list := range v.Lists {
		t.Run(list.Name, func(t *testing.T) {
			status, out, errOut := invoke(t, list.List+"\n", "trust", "inspect", "--at", at)
			if list.List == "" {
				if status != exitUsage {
					t.Errorf("status %d", status)
				}
				return
			}
			got := readVerdict(t, out)
			if errOut != "" || got.Verified == nil || *got.Verified {
				t.Errorf("status %d, %s%s", status, out, errOut)
			}
			if status == exitRefused { // no JWT, so no list
				if list.Fault != trust.FaultSignature {
					t.Errorf("it is not shown: %s", out)
				}
				return
			}
			found := slices.ContainsFunc(got.Faults, func(f fault) bool { return f.Fault == list.Fault && (list.Check == "" || f.Check == list.Check) })
			switch {
			case list.Fault == trust.FaultRolledBack, list.Fault == trust.FaultIssuer, list.Fault == trust.FaultStale, list.Fault == trust.FaultKeys, list.Fault == trust.FaultEntries,
				list.Check == "key.unknown", list.Check == "key.alg", list.Check == "signature", list.Fault == "":
				if len(got.Faults) > 0 {
					t.Errorf("without the trust key nothing is wrong with it: %s", out)
				}
			case !found:
				t.Errorf("does not name %s %s: %s", list.Fault, list.Check, out)
			}
		})
	}
}

// inspect knows a trust list, and does not take it for a bad handoff token alone.
func TestInspectTrustList(t *testing.T) {
	v := readLists(t)
	full, _, _ := strings.Cut(v.Lists[1].List, "\n")
	at := func(seconds int64) []string { return []string{"inspect", "--at", strconv.FormatInt(v.Now+seconds, 10)} }
	for _, c := range []struct {
		raw  string
		args []string
		want []string
	}{
		{raw: full, args: at(2), want: []string{
			"NOT VERIFIED: anybody can have written this.",
			"  header.typ: it is of another kind",
			"It names 1 keys, and entries by their digest, which it does not have with it. It was signed 2s ago, and expires in 58s.",
			"As a trust list nothing is wrong with it, as far as one can tell without the trust key. It may be too old for a follower.",
		}},
		{raw: full, args: at(60), want: []string{"As a trust list it is refused:", "  expired: it has expired"}},
	} {
		status, out, errOut := invoke(t, c.raw, c.args...)
		if status != exitDone || errOut != "" {
			t.Errorf("status %d, %s", status, errOut)
		}
		lines := strings.Split(out, "\n")
		for _, want := range c.want {
			if !slices.Contains(lines, want) {
				t.Errorf("no line %q in\n%s", want, out)
			}
		}
	}
	token := newBench(t, handoff.EdDSA).good.WithHeader("typ", `"handoff-trust+jwt"`).Compact()
	if _, out, _ := invoke(t, token, "inspect"); !strings.Contains(out, "\n  schema: ") {
		t.Errorf("a token in a list's clothes: %s", out)
	}
}

// FuzzTrust gives both commands anything: they never panic, never accept what no
// trust key signed, and print nothing that a terminal would obey.
func FuzzTrust(f *testing.F) {
	v := readLists(f)
	good := map[string]bool{}
	for _, list := range v.Lists {
		f.Add(list.List)
		good[list.List] = list.Fault == "" || list.Fault == trust.FaultRolledBack
	}
	hidden := func(out string) bool {
		return strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
	}
	f.Fuzz(func(t *testing.T, raw string) {
		status, out, _ := invoke(t, raw, v.verify()...)
		if status == exitDone && !good[strings.TrimRight(raw, "\n")] || hidden(out) {
			t.Errorf("status %d, %q", status, out)
		}
		for _, args := range [][]string{{"inspect"}, {"trust", "inspect"}} {
			if _, out, _ := invoke(t, raw, args...); hidden(out) || strings.Contains(out, `"verified":true`) {
				t.Errorf("%s: %q", args, out)
			}
		}
	})
}
