package handoff_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// paths draws distinct paths that differ where orders differ: by bytes, by runes
// and by UTF-16 code units, around the surrogates.
func paths(t *rapid.T) []string {
	char := rapid.SampledFrom([]rune{
		0, '\b', '\n', 0x1f, ' ', '!', '"', '.', '0', '[', '\\', ']', '_', 'a', 0x7f, 0x80, 0x7ff, 0x800,
		0x2028, 0xd7ff, 0xe000, 0xfb33, 0xfffd, 0xffff, 0x10000, 0x1f600, 0x10ffff,
	})
	return rapid.SliceOfNDistinct(rapid.StringOfN(char, 1, 6, -1), 0, 12, rapid.ID).Draw(t, "paths")
}

// The canonical form is what another implementation of RFC 8785 makes of the same
// members, in any order.
func TestCanonicalIsRFC8785(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		op := handoff.Operation{Method: "/a.B/C"}
		value := rapid.StringOf(rapid.Rune())
		members := map[string]string{}
		for _, path := range paths(t) {
			members[path] = value.Draw(t, "value")
			op.Bound = append(op.Bound, handoff.Field{Path: path, Value: members[path]})
		}
		got, err := op.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		plain, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		want := jsontext.Value(plain)
		if err := want.Canonicalize(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got  %q\nwant %q", got, want)
		}
	})
}

func TestCanonicalKeepsTheCallersOrder(t *testing.T) {
	bound := []handoff.Field{{Path: "b", Value: "1"}, {Path: "a", Value: "2"}}
	op := handoff.Operation{Method: "/a.B/C", Bound: slices.Clone(bound), Free: slices.Clone(bound)}
	got, err := op.Canonical()
	if err != nil || string(got) != `{"a":"2","b":"1"}` {
		t.Fatalf("got %s, %v", got, err)
	}
	if !slices.Equal(op.Bound, bound) || !slices.Equal(op.Free, bound) {
		t.Errorf("the operation itself was sorted: %v, %v", op.Bound, op.Free)
	}
}

func TestCanonicalRefuses(t *testing.T) {
	good := handoff.Operation{Method: "/a.B/C", Bound: []handoff.Field{{Path: "a", Value: "1"}}}
	if _, err := good.Canonical(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*handoff.Operation){
		"no method":      func(op *handoff.Operation) { op.Method = "" },
		"no slash":       func(op *handoff.Operation) { op.Method = "a.B/C" },
		"no service":     func(op *handoff.Operation) { op.Method = "//C" },
		"long method":    func(op *handoff.Operation) { op.Method = "/a.B/" + strings.Repeat("C", 256) },
		"no path":        func(op *handoff.Operation) { op.Bound[0].Path = "" },
		"twice":          func(op *handoff.Operation) { op.Bound = append(op.Bound, op.Bound[0]) },
		"twice and free": func(op *handoff.Operation) { op.Free = append(op.Free, op.Bound[0], op.Bound[0]) },
		"path no text":   func(op *handoff.Operation) { op.Bound[0].Path = "a\xff" },
		"value no text":  func(op *handoff.Operation) { op.Bound[0].Value = "\xed\xa0\x80" },
	} {
		op := good
		op.Bound = slices.Clone(good.Bound)
		spoil(&op)
		if got, err := op.Canonical(); err == nil {
			t.Errorf("%s: accepted as %s", name, got)
		}
	}
}
