//go:build !race

package rule_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/rule"

	pb "github.com/handoff-auth/handoff/shared/rule/internal/vectorspb"
)

// What flattening allocates is the lists of fields and the text that is made: not
// a piece for each field, each message or each number.
func TestAllocations(t *testing.T) {
	for name, c := range map[string]struct {
		method  string
		request proto.Message
		most    float64
	}{
		"a payment":     {payMethod, pay(), 3},
		"nothing":       {strictMethod, &pb.Request{}, 1},
		"a nested leaf": {strictMethod, &pb.Request{Leaf: chain(8)}, 4},
		"ten leaves":    {strictMethod, &pb.Request{Leaves: leaves(10)}, 5},
		"numbers":       {strictMethod, &pb.Request{Scalars: &pb.Scalars{I64: 1 << 40, U32: 1 << 20, Twofold: 0.1, Color: 2147483647}}, 3},
	} {
		method := lookup(t, rule.Linked(), c.method)
		got := testing.AllocsPerRun(100, func() {
			if _, err := method.Operation(c.request); err != nil {
				t.Fatal(err)
			}
		})
		if got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, c.most)
		}
	}
}

func leaves(n int) (all []*pb.Leaf) {
	for i := range n {
		all = append(all, &pb.Leaf{Number: int64(i) << 32, Text: "text"})
	}
	return all
}

// No request of 64 KiB, which a server takes from strangers, costs more than a few
// MiB, named or refused: not a long path times many fields.
func TestCost(t *testing.T) {
	const most = 4 << 20
	long := strings.Repeat("k", 990)
	elements := make([]*pb.Leaf, 16000)
	for i := range elements {
		elements[i] = &pb.Leaf{}
	}
	text := map[string]string{}
	for i := range 3600 {
		text[fmt.Sprintf("%04d%s", i, strings.Repeat("\n", 8))] = ""
	}
	strict := lookup(t, rule.Linked(), strictMethod)
	for name, c := range map[string]cost{
		"elements":    {strict, &pb.Request{Named: map[string]*pb.Leaf{long: {Children: elements}}}},
		"entries":     {strict, &pb.Request{Maps: &pb.Maps{Text: text}}},
		"a long key":  {strict, keyed(strings.Repeat("\n", 64<<10))},
		"numbers":     {strict, numbers(16383)},
		"free labels": freeLabels(t, long),
	} {
		if size := proto.Size(c.request); size > 67<<10 {
			t.Errorf("%s: the request has %d bytes", name, size)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		op, err := c.method.Operation(c.request)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > most {
			t.Errorf("%s: %d KiB for %d fields, %.99v", name, took>>10, len(op.Bound)+len(op.Free), err)
		}
	}
}

type cost struct {
	method  *rule.Method
	request proto.Message
}

// freeLabels has many freed maps below a long path, none of which can be named:
// their values are not text.
func freeLabels(t *testing.T, long string) cost {
	t.Helper()
	entry := func(in, field, value string) string {
		return `nested_type { name: "` + in + `" options { map_entry: true }
			field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
			field { name: "value" number: 2 label: LABEL_OPTIONAL ` + value + ` } }
			field { name: "` + field + `" number: 2 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: `
	}
	set := schema{
		rule:    `free: "named.boxes.labels"`,
		request: entry("NamedEntry", "named", `type: TYPE_MESSAGE type_name: ".t.Box"`) + `".t.Request.NamedEntry" }`,
		files: `message_type { name: "Box" ` + entry("LabelsEntry", "labels", `type: TYPE_STRING`) + `".t.Box.LabelsEntry" }
			field { name: "boxes" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".t.Box" } }`,
	}.read(t)

	part := func(number protowire.Number, of []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), of)
	}
	var box, boxes []byte
	for i := range 500 {
		label := append(part(1, fmt.Appendf(nil, "%03d", i)), part(2, []byte("\xff"))...)
		box = append(box, part(2, label)...)
	}
	for range 12 {
		boxes = append(boxes, part(1, box)...)
	}
	c := cost{method: lookup(t, set, "/t.S/Call")}
	var err error
	wire := part(2, append(part(1, []byte(long)), part(2, boxes)...))
	if c.request, err = c.method.Unpack(packed("t.Request", wire)); err != nil {
		t.Fatal(err)
	}
	return c
}
