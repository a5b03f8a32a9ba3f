package rule_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	pb "github.com/handoff-auth/handoff/shared/rule/internal/vectorspb"
)

// chain returns n leaves below each other.
func chain(n int) *pb.Leaf {
	leaf := &pb.Leaf{}
	for range n - 1 {
		leaf = &pb.Leaf{Next: leaf}
	}
	return leaf
}

func numbers(n int) *pb.Request { return &pb.Request{Lists: &pb.Lists{I32: make([]int32, n)}} }

// all is how many bytes the paths and values of a request may have.
const all = 1 << 20

// children returns a request whose paths and values have all bytes, and more: many
// elements below a long path.
func children(more int) *pb.Request {
	key := strings.Repeat("k", 900)
	at := fmt.Sprintf(`named["%s"]`, key)
	used, leaf := len(at)+len("{}"), &pb.Leaf{}
	for {
		n := len(fmt.Sprintf("%s.children[%d]{}", at, len(leaf.Children)))
		if used+n > all-len("memo") {
			memo := strings.Repeat("m", all-used-len("memo")+more)
			return &pb.Request{Memo: memo, Named: map[string]*pb.Leaf{key: leaf}}
		}
		used += n
		leaf.Children = append(leaf.Children, &pb.Leaf{})
	}
}

// entries returns such a request with many entries.
func entries(more int) *pb.Request {
	const n = 1024
	text := map[string]string{}
	for i := range n {
		text[fmt.Sprintf("%01000d", i)] = ""
	}
	used := len("maps{}") + n*(1000+len(`maps.text[""]`))
	return &pb.Request{Memo: strings.Repeat("m", all-used-len("memo")+more), Maps: &pb.Maps{Text: text}}
}

func keyed(key string) *pb.Request {
	return &pb.Request{Maps: &pb.Maps{Text: map[string]string{key: "v"}}}
}

// Each bound has a request at it, which is accepted, and one beyond it.
func TestBounds(t *testing.T) {
	many := map[int32]string{}
	for i := range int32(16383) {
		many[i] = ""
	}
	more := map[int32]string{-1: ""}
	for i := range int32(16383) {
		more[i] = ""
	}
	key := 1024 - len(`maps.text[""]`)
	for name, c := range map[string]struct{ at, beyond *pb.Request }{
		"depth": {&pb.Request{Leaf: chain(32)}, &pb.Request{Leaf: chain(33)}},
		"depth of a list": {
			&pb.Request{Leaves: []*pb.Leaf{{Children: []*pb.Leaf{chain(31)}}}},
			&pb.Request{Leaves: []*pb.Leaf{{Children: []*pb.Leaf{chain(32)}}}},
		},
		"depth of a value": {nested(16), nested(17)},
		"elements":         {numbers(16383), numbers(16384)},
		"entries":          {&pb.Request{Maps: &pb.Maps{I32: many}}, &pb.Request{Maps: &pb.Maps{I32: more}}},
		"fields in all": {
			&pb.Request{Memo: "m", Lists: &pb.Lists{I32: make([]int32, 8000), I64: make([]int64, 8382)}},
			&pb.Request{Memo: "m", Lists: &pb.Lists{I32: make([]int32, 8000), I64: make([]int64, 8383)}},
		},
		"bytes of elements": {children(0), children(1)},
		"bytes of entries":  {entries(0), entries(1)},
		"bytes of text":     {&pb.Request{Memo: strings.Repeat("m", all-4)}, &pb.Request{Memo: strings.Repeat("m", all-3)}},
		"bytes of bytes": { // and "scalars", "{}", "scalars.data"
			&pb.Request{Scalars: &pb.Scalars{Data: make([]byte, (all-21)/4*3+2)}},
			&pb.Request{Scalars: &pb.Scalars{Data: make([]byte, (all-21)/4*3+3)}},
		},
		"path":         {keyed(strings.Repeat("k", key)), keyed(strings.Repeat("k", key+1))},
		"escaped path": {keyed(strings.Repeat("\n", key/2)), keyed(strings.Repeat("\n", key/2+1))},
	} {
		t.Run(name, func(t *testing.T) {
			method := lookup(t, rule.Linked(), strictMethod)
			op, err := method.Operation(c.at)
			if err != nil {
				t.Errorf("at the bound: %v", err)
			}
			examine(t, subject{}, op, c.at)
			if _, err := method.Operation(c.beyond); handoff.ReasonOf(err) != handoff.ReasonRequestUnbindable {
				t.Errorf("beyond the bound: %v", err)
			}
		})
	}
}

// nested returns 2n messages below each other: known, value, and then list and value.
func nested(n int) *pb.Request {
	value := structpb.NewNullValue()
	for range n - 1 {
		value = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{value}})
	}
	return &pb.Request{Known: &pb.Known{Value: value}}
}

// A refusal names where, quoted, and never what stands there.
func TestRefusalsNameThePlace(t *testing.T) {
	const secret = "s3cret"
	nan := math.NaN()
	for _, c := range []struct {
		request *pb.Request
		path    string
	}{
		{&pb.Request{Memo: secret + "\xff"}, "memo"},
		{&pb.Request{Leaves: []*pb.Leaf{{}, {Next: &pb.Leaf{Text: secret + "\xff"}}}}, "leaves[1].next.text"},
		{&pb.Request{Lists: &pb.Lists{Twofold: []float64{1, nan}}}, "lists.twofold[1]"},
		{&pb.Request{Maps: &pb.Maps{S64: map[int64]float64{-5: nan}}}, `maps.s64["-5"]`},
		{&pb.Request{Maps: &pb.Maps{Text: map[string]string{secret + "\xff": ""}}}, "maps.text"},
		{&pb.Request{Maps: &pb.Maps{Text: map[string]string{"k": secret + "\xff"}}}, `maps.text["k"]`},
		{&pb.Request{Scalars: &pb.Scalars{Color: 77}}, "scalars.color"},
		{&pb.Request{Known: &pb.Known{Payload: &anypb.Any{TypeUrl: secret + "\xff"}}}, "known.payload.type_url"},
	} {
		_, err := lookup(t, rule.Linked(), strictMethod).Operation(c.request)
		var refusal *handoff.Refusal
		switch {
		case !errors.As(err, &refusal):
			t.Errorf("%s: got %v", c.path, err)
		case refusal.Reason != handoff.ReasonRequestUnbindable || refusal.Check != "operation.bind":
			t.Errorf("%s: got %v", c.path, refusal)
		case !strings.HasPrefix(refusal.Detail, fmt.Sprintf("%q: ", c.path)):
			t.Errorf("detail %s does not begin with the path %q", refusal.Detail, c.path)
		case strings.Contains(refusal.Error(), secret):
			t.Errorf("%v shows the value", refusal)
		}
	}
}

// With anything in a freed field, the request is accepted, and the operation is
// the same.
func TestFreedFieldsRefuseNothing(t *testing.T) {
	unknown := &pb.Leaf{}
	unknown.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 1})
	method := lookup(t, rule.Linked(), looseMethod)
	for name, c := range map[string]struct {
		lists *pb.Lists
		free  int // fields that are listed all the same
	}{
		"nothing there":  {nil, 0},
		"what can be":    {&pb.Lists{Text: []string{"a", ""}}, 3},
		"unknown field":  {&pb.Lists{Leaf: []*pb.Leaf{{}, unknown}}, 0},
		"unknown number": {&pb.Lists{Color: []pb.Color{77}}, 0},
		"NaN":            {&pb.Lists{Single: []float32{float32(math.NaN())}}, 0},
		"no text":        {&pb.Lists{Text: []string{"\xff"}}, 0},
		"too deep":       {&pb.Lists{Leaf: []*pb.Leaf{chain(40)}}, 0},
		"as many as fit": {&pb.Lists{I32: make([]int32, 511)}, 512},
		"too many":       {&pb.Lists{I32: make([]int32, 512)}, 0},
		"far too many":   {&pb.Lists{I32: make([]int32, 1<<20)}, 0},
		"as long as may": {&pb.Lists{Text: []string{strings.Repeat("x", 4096)}}, 2},
		"too long":       {&pb.Lists{Text: []string{strings.Repeat("x", 4097)}}, 0},
		"too many bytes": {&pb.Lists{Data: [][]byte{make([]byte, 3073)}}, 0},
	} {
		op, err := method.Operation(&pb.Request{Lists: c.lists, Leaf: &pb.Leaf{Text: "t"}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if bound, err := canonical(op); err != nil || string(bound) != `{"leaf":"{}","leaf.text":"t"}` {
			t.Errorf("%s: bound %s, %v", name, bound, err)
		}
		if len(op.Free) != c.free {
			t.Errorf("%s: %d free fields, want %d", name, len(op.Free), c.free)
		}
	}
}

// A freed field that is left out takes nothing else with it.
func TestFreedFieldsStandAlone(t *testing.T) {
	op, err := lookup(t, rule.Linked(), looseMethod).Operation(&pb.Request{
		Memo:   "m",
		Lists:  &pb.Lists{Text: []string{"a", "\xff"}},
		Leaves: []*pb.Leaf{{Note: "n"}, {Note: "\xff"}, {Note: "o"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []handoff.Field{
		{Path: "leaves[0].note", Value: "n"},
		{Path: "leaves[2].note", Value: "o"},
		{Path: "memo", Value: "m"},
	}
	if got := op.Free; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("free %v, want %v", got, want)
	}
}

// The operation has the rule's lifetime.
func TestOperationHasTheLifetime(t *testing.T) {
	for name, want := range map[string]string{looseMethod: "30s", strictMethod: "0s"} {
		op, err := rule.Operation(name, &pb.Request{})
		if err != nil || op.MaxLifetime.String() != want || op.Method != name {
			t.Errorf("%s: got %v, %v", name, op, err)
		}
	}
}

// The operation does not depend on the encoding or on the order in which Go walks
// a map.
func TestOperationIsStable(t *testing.T) {
	entries := map[string]*pb.Leaf{}
	for i := range 50 {
		entries[fmt.Sprint(i, "😀"[:i%2*4])] = &pb.Leaf{Number: int64(i)}
	}
	request := &pb.Request{Named: entries}
	method := lookup(t, rule.Linked(), strictMethod)
	first, err := method.Operation(request)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		b, err := proto.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		again, err := method.Unpack(packed("handoff.vectors.v1.Request", b))
		if err != nil {
			t.Fatal(err)
		}
		if op, err := method.Operation(again); err != nil || fmt.Sprint(op) != fmt.Sprint(first) {
			t.Fatalf("got %v, %v\nwant %v", op, err, first)
		}
	}
}
