package rule_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// inverse holds Request to being Operation's inverse: of the bound fields, and of
// the free ones with them.
func inverse(t interface{ Fatalf(string, ...any) }, method *rule.Method, op handoff.Operation) {
	for _, fields := range [][]handoff.Field{op.Bound, slices.Concat(op.Bound, op.Free)} {
		if len(fields) > 2000 {
			continue // no token names so many
		}
		request, err := method.Request(handoff.Claims{Method: op.Method, Fields: fields})
		if err != nil {
			t.Fatalf("no request of %v: %v", fields, err)
		}
		again, err := method.Operation(request)
		if err != nil {
			t.Fatalf("the request of %v: %v", fields, err)
		}
		if !slices.Equal(again.Bound, op.Bound) || len(again.Free) != len(fields)-len(op.Bound) {
			t.Fatalf("the request has the fields\n%v %v, want\n%v", again.Bound, again.Free, fields)
		}
	}
}

func strict(pairs ...string) handoff.Claims {
	return named("/handoff.vectors.v1.VectorService/Strict", pairs...)
}

func named(method string, pairs ...string) handoff.Claims {
	c := handoff.Claims{Method: method}
	for i := 0; i < len(pairs); i += 2 {
		c.Fields = append(c.Fields, handoff.Field{Path: pairs[i], Value: pairs[i+1]})
	}
	return c
}

func TestRequestRefuses(t *testing.T) {
	method := lookup(t, rule.Linked(), "/handoff.vectors.v1.VectorService/Strict")
	digest := strict()
	digest.FieldsSHA256 = strings.Repeat("A", 43)
	for _, c := range []struct {
		name   string
		claims handoff.Claims
		want   handoff.Reason
	}{
		{"nothing named", strict(), 0},
		{"a scalar", strict("scalars", "{}", "scalars.text", "x"), 0},
		{"in any order", strict("scalars.text", "x", "scalars", "{}"), 0},
		{"a list", strict("lists", "{}", "lists.i32[0]", "7", "lists.i32[1]", "0"), 0},
		{"another method", named("/handoff.vectors.v1.VectorService/Loose"), handoff.ReasonMethodMismatch},
		{"a digest only", digest, handoff.ReasonRequestUnbindable},
		{"a path that is not there", strict("nothing", "x"), handoff.ReasonFieldMismatch},
		{"no path", strict("", "x"), handoff.ReasonFieldMismatch},
		{"a path behind a scalar", strict("memo.x", "x"), handoff.ReasonFieldMismatch},
		{"a path that ends in a dot", strict("scalars", "{}", "scalars.", "x"), handoff.ReasonFieldMismatch},
		{"two dots", strict("scalars", "{}", "scalars..text", "x"), handoff.ReasonFieldMismatch},
		{"a JSON name", strict("lists", "{}", "lists.I32[0]", "7"), handoff.ReasonFieldMismatch},
		{"a message named by what is in it", strict("scalars.text", "x"), handoff.ReasonFieldMismatch},
		{"a message with a value", strict("scalars", "x"), handoff.ReasonFieldMismatch},
		{"a field twice", strict("memo", "x", "memo", "x"), handoff.ReasonFieldMismatch},
		{"a default without presence", strict("memo", ""), handoff.ReasonFieldMismatch},
		{"a list without index", strict("lists", "{}", "lists.i32", "7"), handoff.ReasonFieldMismatch},
		{"a list with a gap", strict("lists", "{}", "lists.i32[0]", "7", "lists.i32[2]", "7"), handoff.ReasonFieldMismatch},
		{"a list from 1", strict("lists", "{}", "lists.i32[1]", "7"), handoff.ReasonFieldMismatch},
		{"an index too large", strict("lists", "{}", "lists.i32[1000000000]", "7"), handoff.ReasonFieldMismatch},
		{"an index beyond int", strict("lists", "{}", "lists.i32[99999999999999999999]", "7"), handoff.ReasonFieldMismatch},
		{"a negative index", strict("lists", "{}", "lists.i32[-1]", "7"), handoff.ReasonFieldMismatch},
		{"an index with a zero", strict("lists", "{}", "lists.i32[00]", "7"), handoff.ReasonFieldMismatch},
		{"an index with a sign", strict("lists", "{}", "lists.i32[+0]", "7"), handoff.ReasonFieldMismatch},
		{"an open index", strict("lists", "{}", "lists.i32[0", "7"), handoff.ReasonFieldMismatch},
		{"two indices", strict("lists", "{}", "lists.i32[0][0]", "7"), handoff.ReasonFieldMismatch},
		{"an index of a scalar", strict("memo[0]", "x"), handoff.ReasonFieldMismatch},
		{"a number with a zero", strict("lists", "{}", "lists.i32[0]", "07"), handoff.ReasonFieldMismatch},
		{"a number with a sign", strict("lists", "{}", "lists.i32[0]", "+7"), handoff.ReasonFieldMismatch},
		{"negative zero", strict("lists", "{}", "lists.i32[0]", "-0"), handoff.ReasonFieldMismatch},
		{"a number out of range", strict("lists", "{}", "lists.i32[0]", "2147483648"), handoff.ReasonFieldMismatch},
		{"no number", strict("lists", "{}", "lists.i32[0]", ""), handoff.ReasonFieldMismatch},
		{"text that is not UTF-8", strict("memo", "\xff"), handoff.ReasonFieldMismatch},
		{"a path beyond the bound", strict("leaf"+strings.Repeat(".next", 400), "{}"), handoff.ReasonFieldMismatch},
		{"nested too deep", strict(deep(40)...), handoff.ReasonFieldMismatch},
		{"no deeper than allowed", strict(deep(31)...), 0},
	} {
		request, err := method.Request(c.claims)
		if handoff.ReasonOf(err) != c.want || (request == nil) != (err != nil) || (err == nil) != (c.want == 0) {
			t.Errorf("%s: got %v, %v, want %v", c.name, request, err, c.want)
		}
	}
	const without = "/handoff.v1.HandoffService/IssueHandoff"
	if request, err := lookup(t, rule.Linked(), without).Request(handoff.Claims{Method: without}); err == nil {
		t.Errorf("a method without a rule: got %v", request)
	}
}

// deep names n messages, each in the one before.
func deep(n int) (pairs []string) {
	for i := range n {
		pairs = append(pairs, "leaf"+strings.Repeat(".next", i), "{}")
	}
	return pairs
}

// What Request accepts is the one text of its request: it yields those fields,
// and no others.
func TestRequestIsStrict(t *testing.T) {
	values := rapid.SampledFrom([]string{"{}", "", "0", "1", "-1", "x", "true", "00000000", "80000000", "AA", "AB", "7fc00000"})
	for _, c := range cases() {
		method := lookup(t, rule.Linked(), c.name)
		t.Run(c.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				request := c.request.ProtoReflect().New()
				draw(t, request, 2)
				op := operation(t, method, request)
				fields := slices.Concat(op.Bound, op.Free)
				if len(fields) == 0 || len(fields) > 500 {
					t.Skip("nothing to change")
				}
				at := rapid.IntRange(0, len(fields)-1).Draw(t, "at")
				switch rapid.IntRange(0, 3).Draw(t, "how") {
				case 0:
					fields[at].Value = values.Draw(t, "value")
				case 1:
					fields = slices.Delete(fields, at, at+1)
				case 2:
					fields = append(fields, handoff.Field{Path: fields[at].Path + rapid.SampledFrom([]string{"", ".x", "[0]", `["a"]`, "."}).Draw(t, "more"), Value: "{}"})
				default:
					fields[at].Path = strings.Replace(fields[at].Path, rapid.SampledFrom([]string{"0", "1", "a", `"`, "."}).Draw(t, "old"), rapid.StringN(0, 2, -1).Draw(t, "new"), 1)
				}
				accepted(t, method, fields)
			})
		})
	}
}

func accepted(t interface{ Fatalf(string, ...any) }, method *rule.Method, fields []handoff.Field) {
	request, err := method.Request(handoff.Claims{Method: method.Name(), Fields: fields})
	if err != nil {
		if handoff.ReasonOf(err) != handoff.ReasonFieldMismatch {
			t.Fatalf("%v is for another reason", err)
		}
		return
	}
	op, err := method.Operation(request)
	if err != nil {
		t.Fatalf("%v: %v", fields, err)
	}
	all := slices.Concat(op.Bound, op.Free)
	byPath := func(a, b handoff.Field) int { return strings.Compare(a.Path, b.Path) }
	slices.SortFunc(all, byPath)
	if want := slices.SortedFunc(slices.Values(fields), byPath); !slices.Equal(all, want) {
		t.Fatalf("accepted %v\n  as if %v", want, all)
	}
}

// FuzzRequest gives Request the fields that somebody else's issuer may sign.
func FuzzRequest(f *testing.F) {
	all := cases()
	for _, v := range readVectors(f) {
		for i, c := range all {
			if c.name == v.Method {
				var text strings.Builder
				for path, value := range v.Bound {
					text.WriteString(path + "\x00" + value + "\x00")
				}
				f.Add(byte(i), text.String())
			}
		}
	}
	linked := rule.Linked()
	f.Fuzz(func(t *testing.T, which byte, text string) {
		var fields []handoff.Field
		parts := strings.Split(text, "\x00")
		for i := 0; i+1 < len(parts); i += 2 {
			fields = append(fields, handoff.Field{Path: parts[i], Value: parts[i+1]})
		}
		accepted(t, lookup(t, linked, all[int(which)%len(all)].name), fields)
	})
}

// Of the fields that a rule frees, a person can fill in those of one value whose
// message is there.
func TestInputs(t *testing.T) {
	for _, c := range []struct {
		claims handoff.Claims
		want   []string
	}{
		{named(server2v1.InvoiceService_PayInvoice_FullMethodName, "invoice_id", "INV-42"), []string{"memo"}},
		{named(server2v1.InvoiceService_PayInvoice_FullMethodName, "memo", "signed"), nil},
		{named(server2v1.InvoiceService_GetInvoice_FullMethodName, "invoice_id", "INV-42"), nil},
		{named("/handoff.vectors.v1.VectorService/Loose"), []string{"memo"}},
		{named("/handoff.vectors.v1.VectorService/Loose", "scalars", "{}", "leaf", "{}"), []string{"leaf.note", "memo", "scalars.text"}},
	} {
		var got []string
		for _, in := range lookup(t, rule.Linked(), c.claims.Method).Inputs(c.claims) {
			got = append(got, in.Path)
			if string(in.Field.Name()) != in.Path[strings.LastIndexByte(in.Path, '.')+1:] {
				t.Errorf("%s: the field is %s", in.Path, in.Field.Name())
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: got %q, want %q", c.claims, got, c.want)
		}
	}
}
