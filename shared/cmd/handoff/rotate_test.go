package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

// kid VARIABLE STATE DIR sets a variable to the id of the key that is in a state.
func kid(ts *testscript.TestScript, _ bool, args []string) {
	s, err := keyFolder(ts.MkAbs(args[2])).read()
	ts.Check(err)
	for _, k := range s.ring.Records() {
		if string(k.State) == args[1] {
			ts.Setenv(args[0], k.Key.ID())
			return
		}
	}
	ts.Fatalf("no key is %s", args[1])
}

// operator takes steps in a folder of keys, by a clock of its own.
type operator struct {
	t   testing.TB
	dir keyFolder
	now time.Time
}

func newOperator(t testing.TB) *operator {
	return &operator{t, keyFolder(filepath.Join(t.TempDir(), "keys")), now}
}

func (o *operator) try(verb string, args ...string) (status int, stdout, stderr string) {
	o.t.Helper()
	var out, err bytes.Buffer
	p := &program{in: strings.NewReader(""), out: &out, err: &err, now: func() time.Time { return o.now }}
	status = run(append([]string{"keys", verb, "--dir", string(o.dir)}, args...), p)
	return status, out.String(), err.String()
}

// do takes a step, which must be done, and returns the id of the key.
func (o *operator) do(verb string, args ...string) string {
	o.t.Helper()
	status, out, errOut := o.try(verb, args...)
	if status != exitDone || errOut != "" {
		o.t.Fatalf("%s: status %d, %s%s", verb, status, out, errOut)
	}
	_, id, _ := strings.Cut(strings.SplitN(out, "\n", 2)[0], " ")
	return id
}

// waits takes a step, which must be refused up to the last moment before wait.
func (o *operator) waits(wait time.Duration, verb string) {
	o.t.Helper()
	before := o.snapshot()
	for _, after := range []time.Duration{0, wait - time.Millisecond} {
		o.now = o.now.Add(after)
		if status, out, _ := o.try(verb); status != exitRefused || !strings.HasPrefix(out, "refused: too early: ") {
			o.t.Errorf("%s after %s of %s: status %d, %s", verb, after, wait, status, out)
		}
	}
	if !slices.Equal(o.snapshot(), before) {
		o.t.Errorf("a refused %s has changed the folder", verb)
	}
	o.now = o.now.Add(time.Millisecond)
	o.do(verb)
}

// snapshot is the names and the content of all files.
func (o *operator) snapshot() (all []string) {
	o.t.Helper()
	entries, err := os.ReadDir(string(o.dir))
	if err != nil {
		o.t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(o.dir.file(e.Name()))
		if err != nil {
			o.t.Fatal(err)
		}
		all = append(all, e.Name(), string(text))
	}
	return all
}

func (o *operator) privates() []string {
	names, err := filepath.Glob(o.dir.file("*.key"))
	if err != nil {
		o.t.Fatal(err)
	}
	for i, name := range names {
		names[i] = strings.TrimSuffix(filepath.Base(name), ".key")
	}
	return names
}

func (o *operator) state() keyState {
	o.t.Helper()
	s, err := o.dir.read()
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// F06 and F07: a key waits before it signs and before it is retired, to the
// millisecond that its terms say, and the terms last from step to step.
func TestKeysWait(t *testing.T) {
	for _, terms := range []trust.Terms{
		{ListLifetime: time.Minute, TokenLifetime: 5 * time.Minute, Skew: 5 * time.Second}, // without flags
		{ListLifetime: 10 * time.Second, TokenLifetime: 2 * time.Minute, Skew: time.Second},
		{ListLifetime: 24 * time.Hour, TokenLifetime: time.Second, Skew: time.Minute},
	} {
		o := newOperator(t)
		var flags []string
		if terms.ListLifetime != time.Minute {
			flags = []string{"--max-staleness", terms.ListLifetime.String(), "--max-lifetime", terms.TokenLifetime.String(), "--skew", terms.Skew.String()}
		}
		first := o.do("prepare", flags...)
		o.do("activate")
		for range 3 {
			second := o.do("prepare")
			o.waits(terms.Before(), "activate")
			o.waits(terms.Lag(), "retire")
			if got := o.privates(); !slices.Equal(got, []string{second}) {
				t.Errorf("private keys %s, want that of %s", got, second)
			}
			for after, listed := range map[time.Duration]bool{terms.After() - time.Millisecond: true, terms.After(): false} {
				later := *o
				later.now = o.now.Add(after)
				_, out, _ := later.try("list", "--jwks")
				if strings.Contains(out, first) != listed || !strings.Contains(out, second) {
					t.Errorf("%s after it was retired: listed should be %t: %s", after, listed, out)
				}
			}
			first = second
		}
	}
}

// A longer term counts at once; a shorter one is not taken from the command line.
func TestKeysTerms(t *testing.T) {
	o := newOperator(t)
	o.do("prepare", "--max-staleness", "10s")
	o.do("activate")
	recorded := o.snapshot()
	for _, flags := range [][]string{
		{"--max-staleness", "9s"},
		{"--max-lifetime", "299s"},
		{"--skew", "4999ms"},
		{"--max-staleness", "0s"},
		{"--max-staleness", "25h"},
		{"--max-staleness", "10500ms"},
		{"--max-lifetime", "3601s"},
		{"--max-lifetime", "-1s"},
		{"--skew", "61s"},
		{"--skew", "0s"},
	} {
		status, out, errOut := o.try("prepare", flags...)
		if status != exitUsage || out != "" || !strings.HasPrefix(errOut, "handoff: "+flags[0]+": ") {
			t.Errorf("%s: status %d, %s%s", flags, status, out, errOut)
		}
	}
	if !slices.Equal(o.snapshot(), recorded) {
		t.Error("a refused term has changed the folder")
	}
	o.do("prepare", "--max-staleness", "1h")
	o.waits(time.Hour+10*time.Second, "activate")
}

func TestKeysTermsFile(t *testing.T) {
	good := `{"max_staleness_ms":60000,"max_lifetime_ms":300000,"skew_ms":5000}`
	if terms, err := parseTerms([]byte(good)); err != nil || string(formatTerms(terms)) != good+"\n" {
		t.Errorf("%v %v", terms, err)
	}
	for _, bad := range []string{
		"", "{}", `{"max_staleness_ms":60000,"max_lifetime_ms":300000}`,
		strings.Replace(good, "60000", "60001", 1), strings.Replace(good, "60000", "0", 1), strings.Replace(good, "60000", "-60000", 1),
		strings.Replace(good, "60000", "86401000", 1), strings.Replace(good, "60000", "9007199254740991", 1),
		strings.Replace(good, "300000", "300001", 1), strings.Replace(good, "5000}", "60001}", 1),
		strings.Replace(good, "{", `{"issuer":"i",`, 1), strings.Replace(good, "{", `{"skew_ms":5000,`, 1), good + good,
	} {
		if terms, err := parseTerms([]byte(bad)); err == nil {
			t.Errorf("%s: %v", bad, terms)
		}
	}
}

// The kind of a new key is that of the one that signs.
func TestKeysAlgorithm(t *testing.T) {
	o := newOperator(t)
	o.do("prepare", "--alg", "ES256")
	o.do("activate")
	o.do("prepare")
	o.do("prepare", "--alg", "ES384")
	var got []handoff.Algorithm
	for _, k := range o.state().ring.Records() {
		got = append(got, k.Key.Algorithm())
	}
	if !slices.Equal(got, []handoff.Algorithm{handoff.ES256, handoff.ES256, handoff.ES384}) {
		t.Error(got)
	}
}

// Steps at the same time are taken one after the other: none is lost.
func TestKeysSteps(t *testing.T) {
	o := newOperator(t)
	o.do("prepare")
	o.do("activate")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if status, _, errOut := o.try("prepare"); status != exitDone {
				t.Error(errOut)
			}
		})
	}
	group.Wait()
	if n := len(o.state().ring.Records()); n != 9 || len(o.privates()) != n {
		t.Errorf("%d keys, %d private ones", n, len(o.privates()))
	}
	o.now = o.now.Add(time.Hour)
	done := make(chan string, 9)
	for _, k := range o.state().ring.Records() {
		group.Go(func() {
			if status, _, _ := o.try("taint", "--kid="+k.Key.ID()); status == exitDone {
				done <- k.Key.ID()
			}
		})
	}
	group.Wait()
	close(done)
	if len(done) != 8 { // never the last
		t.Errorf("%d of 9 keys are tainted", len(done))
	}
	signing, ok := o.state().ring.Signing()
	if got := o.privates(); !ok || !slices.Equal(got, []string{signing}) {
		t.Errorf("private keys %s; %s signs", got, signing)
	}
}

// A list has no room for more keys than 64: the step that would leave the issuer
// without a list is refused, and leaves no key behind.
func TestKeysFitAList(t *testing.T) {
	o := newOperator(t)
	o.do("prepare")
	ring := o.state().ring
	for range trust.MaxKeys - 2 {
		var err error
		if ring, err = ring.Prepare(forge.NewKey(handoff.EdDSA).Public); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(ring)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.dir.file(ringFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	o.do("prepare") // the 64th
	before := o.snapshot()
	if status, _, errOut := o.try("prepare"); status != exitUsage || !slices.Equal(o.snapshot(), before) {
		t.Errorf("status %d, %s", status, errOut)
	}
}

// A key whose step was cut short before anybody could say since when it is listed
// waits from the next step on, also one that is refused, and not from the crash on.
func TestKeysSettle(t *testing.T) {
	o := newOperator(t)
	o.do("prepare")
	o.do("activate")
	o.do("prepare")
	text, err := os.ReadFile(o.dir.file(ringFile))
	if err != nil {
		t.Fatal(err)
	}
	open := regexp.MustCompile(`("state":"next"),"prepared":\d+`).ReplaceAll(text, []byte("$1"))
	if err := os.WriteFile(o.dir.file(ringFile), open, 0o644); err != nil {
		t.Fatal(err)
	}
	if o.state().ring.Settled() {
		t.Fatalf("nothing is open: %s", open)
	}
	o.now = o.now.Add(time.Hour)
	wait := o.state().terms.Before()
	if _, out, _ := o.try("list"); !strings.Contains(out, "next, in "+wait.String()) {
		t.Errorf("listed:\n%s", out)
	}
	if status, _, _ := o.try("activate"); status != exitRefused || !o.state().ring.Settled() {
		t.Errorf("status %d; settled: %v", status, o.state().ring.Settled())
	}
	o.waits(wait, "activate")
}

// A step that was cut short by a crash does no harm, and the next step cleans up.
func TestKeysAfterCrash(t *testing.T) {
	o := newOperator(t)
	first := o.do("prepare")
	o.do("activate")
	second := o.do("prepare")
	keep := filepath.Join(t.TempDir(), "keep")
	if err := os.Link(o.dir.keys().Path(first), keep); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".ring.json.next", ".terms.json.next"} { // half a file
		if err := os.WriteFile(o.dir.file(name), []byte(`{"keys`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.do("taint", "--kid="+first)
	if err := os.Link(keep, o.dir.keys().Path(first)); err != nil { // as if it had not come to deleting
		t.Fatal(err)
	}
	third := o.do("prepare", "--max-staleness", "2m")
	if got, want := o.privates(), []string{second, third}; !slices.Contains(got, second) || !slices.Contains(got, third) || len(got) != 2 {
		t.Errorf("private keys %s, want %s", got, want)
	}
	if info, err := os.Stat(o.dir.file(ringFile)); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(string(o.dir)); err != nil || len(entries) != 4 {
		t.Errorf("%v %v", entries, err)
	}
}

// Where the ring cannot be written the new private key goes, too.
func TestKeysPrepareFails(t *testing.T) {
	o := newOperator(t)
	o.do("prepare")
	before := o.snapshot()
	next := o.dir.file(".ring.json.next")
	if err := os.MkdirAll(filepath.Join(next, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if status, out, errOut := o.try("prepare"); status != exitUsage || out != "" || !strings.HasPrefix(errOut, "handoff: --dir: ") {
		t.Errorf("status %d, %s%s", status, out, errOut)
	}
	if err := os.RemoveAll(next); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.snapshot(), before) {
		t.Error("something is left")
	}
}

// A key whose private half is missing, exposed or another's does not come to sign,
// and list says so.
func TestKeysWithoutPrivateHalf(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"missing": os.Remove,
		"exposed": func(path string) error { return os.Chmod(path, 0o644) },
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"another's": func(path string) error {
			key, err := signkey.Generate(handoff.EdDSA)
			if err != nil {
				return err
			}
			if err := os.Remove(path); err != nil {
				return err
			}
			return key.Save(path)
		},
	} {
		o := newOperator(t)
		id := o.do("prepare")
		if err := spoil(o.dir.keys().Path(id)); err != nil {
			t.Fatal(err)
		}
		if status, _, errOut := o.try("activate"); status != exitUsage || !strings.Contains(errOut, "--dir") {
			t.Errorf("%s: status %d, %s", name, status, errOut)
		}
		if _, signs := o.state().ring.Signing(); signs {
			t.Errorf("%s: it signs", name)
		}
		if _, out, _ := o.try("list"); !strings.Contains(out, "PROBLEM: this key cannot sign: ") {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// What is in the folder and is not what these commands write stops every step.
func TestKeysBadFolder(t *testing.T) {
	for name, spoil := range map[string]func(o *operator) error{
		"others can write":  func(o *operator) error { return os.Chmod(string(o.dir), 0o722) },
		"ring cut off":      func(o *operator) error { return os.Truncate(o.dir.file(ringFile), 20) },
		"ring empty":        func(o *operator) error { return os.Truncate(o.dir.file(ringFile), 0) },
		"terms empty":       func(o *operator) error { return os.Truncate(o.dir.file(termsFile), 0) },
		"terms missing":     func(o *operator) error { return os.Remove(o.dir.file(termsFile)) },
		"ring with private": func(o *operator) error { return privateRing(o) },
		"SERVER1's": func(o *operator) error {
			return errors.Join(os.Remove(o.dir.file(ringFile)), os.Remove(o.dir.file(termsFile)))
		},
	} {
		o := newOperator(t)
		id := o.do("prepare")
		o.do("activate")
		if err := spoil(o); err != nil {
			t.Fatal(err)
		}
		before := o.snapshot()
		for _, args := range [][]string{{"list"}, {"list", "--jwks"}, {"prepare"}, {"activate"}, {"retire"}, {"taint", "--kid=" + id}} {
			status, out, errOut := o.try(args[0], args[1:]...)
			if status != exitUsage || out != "" || !strings.HasPrefix(errOut, "handoff: --dir: ") || strings.Count(errOut, "\n") != 1 {
				t.Errorf("%s: %s: status %d, %s%s", name, args, status, out, errOut)
			}
		}
		if !slices.Equal(o.snapshot(), before) {
			t.Errorf("%s: the folder has changed", name)
		}
	}
}

// A step that nothing can take says which comes before it.
func TestKeysOtherStepFirst(t *testing.T) {
	o := newOperator(t)
	o.do("prepare")
	o.do("activate")
	for verb, first := range map[string]string{"activate": "prepare", "retire": "activate another"} {
		if status, _, errOut := o.try(verb); status != exitUsage || !strings.Contains(errOut, first) {
			t.Errorf("%s: status %d, %s", verb, status, errOut)
		}
	}
}

// privateRing puts the private half into the ring, where everybody could read it.
func privateRing(o *operator) error {
	text, err := os.ReadFile(o.dir.keys().Path(o.privates()[0]))
	if err != nil {
		return err
	}
	return os.WriteFile(o.dir.file(ringFile),
		[]byte(`{"keys":[{"state":"next","prepared":1767225600000,"jwk":`+strings.TrimSpace(string(text))+`}]}`), 0o644)
}

// No step prints or lists a private key.
func TestKeysTellNoSecret(t *testing.T) {
	o := newOperator(t)
	id := o.do("prepare")
	text, err := os.ReadFile(o.dir.keys().Path(id))
	if err != nil {
		t.Fatal(err)
	}
	var jwk struct{ D string }
	if err := json.Unmarshal(text, &jwk); err != nil || len(jwk.D) < 40 {
		t.Fatal("no secret to look for")
	}
	for _, args := range [][]string{{"activate"}, {"prepare"}, {"list"}, {"list", "--jwks"}, {"activate"}, {"retire"}} {
		_, out, errOut := o.try(args[0], args[1:]...)
		if strings.Contains(out+errOut, jwk.D) {
			t.Errorf("%s tells the private key", args)
		}
	}
	for _, name := range []string{ringFile, termsFile} {
		if text, err := os.ReadFile(o.dir.file(name)); err != nil || bytes.Contains(text, []byte(jwk.D)) {
			t.Errorf("%s has the private key: %v", name, err)
		}
	}
}

// The command that list proposes can be pasted, with any name of the folder.
func TestKeysCommand(t *testing.T) {
	for dir, want := range map[keyFolder]string{
		"keys":         "handoff keys activate --dir=keys --kid=-k",
		"../a_b/C.d-1": "handoff keys activate --dir=../a_b/C.d-1 --kid=-k",
		"my keys":      "handoff keys activate --dir='my keys' --kid=-k",
		"it's;\x1b":    `handoff keys activate --dir='it'\''s;\u001b' --kid=-k`,
		"$(reboot)`~":  "handoff keys activate --dir='$(reboot)`~' --kid=-k",
		"":             "handoff keys activate --dir='' --kid=-k",
	} {
		if got := dir.command(rotation.Step{Verb: rotation.DueActivate, Kid: "-k"}); got != want {
			t.Errorf("%q: %s", dir, got)
		}
	}
	o := newOperator(t)
	o.do("prepare")
	o.do("activate")
	o.do("prepare")
	o.now = o.now.Add(time.Hour)
	_, out, _ := o.try("list")
	_, command, _ := strings.Cut(out, "next, now: handoff ")
	if status, out, errOut := invokeAt(t, o.now, strings.Fields(command)...); status != exitDone {
		t.Errorf("%q: status %d, %s%s", command, status, out, errOut)
	}
}

func invokeAt(t testing.TB, at time.Time, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(args, &program{in: strings.NewReader(""), out: &out, err: &err, now: func() time.Time { return at }})
	return status, out.String(), err.String()
}
