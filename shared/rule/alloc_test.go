//go:build !race

package rule_test

import (
	"testing"

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
