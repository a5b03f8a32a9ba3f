package rule_test

import (
	"cmp"
	"os"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	pb "github.com/handoff-auth/handoff/shared/rule/internal/vectorspb"
)

// subject is a method with its request and what its rule frees.
type subject struct {
	name    string
	request proto.Message
	free    []string
}

func cases() []subject {
	return []subject{
		{name: "/handoff.vectors.v1.VectorService/Strict", request: &pb.Request{}},
		{
			name: "/handoff.vectors.v1.VectorService/Loose", request: &pb.Request{},
			free: []string{
				"memo", "scalars.text", "lists", "leaf.note", "leaf.next.next", "leaves.note", "named.note",
				"known.payload", "choice.leaf.number",
			},
		},
		{
			name: "/handoff.vectors.v1.LegacyService/Legacy", request: &pb.LegacyRequest{},
			free: []string{"mygroup", "mygroups", "extendable"},
		},
		{name: "/handoff.vectors.v1.EditionService/Edition", request: &pb.EditionRequest{}, free: []string{"delimited"}},
		{name: server2v1.InvoiceService_PayInvoice_FullMethodName, request: &server2v1.PayInvoiceRequest{}, free: []string{"memo"}},
	}
}

func lookup(t testing.TB, set *rule.Set, name string) *rule.Method {
	t.Helper()
	method, err := set.Method(name)
	if err != nil {
		t.Fatal(err)
	}
	return method
}

func image(t testing.TB) *rule.Set {
	t.Helper()
	b, err := os.ReadFile("../handoff/testdata/operations.binpb")
	if err != nil {
		t.Fatal(err)
	}
	set, err := rule.ReadDescriptorSet(b)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// examine holds an operation against the request that it was made from.
func examine(t interface{ Fatalf(string, ...any) }, c subject, op handoff.Operation, request proto.Message) {
	if _, err := canonical(op); err != nil {
		t.Fatalf("no operation: %v", err)
	}
	for _, fields := range [][]handoff.Field{op.Bound, op.Free} {
		byPath := func(a, b handoff.Field) int { return cmp.Compare(a.Path, b.Path) }
		if !slices.IsSortedFunc(fields, byPath) {
			t.Fatalf("out of order: %v", fields)
		}
	}
	bound := without(request, c.free)
	again := request.ProtoReflect().New()
	if err := rebuild(again, op.Bound); err != nil {
		t.Fatalf("the fields do not say what the request is: %v", err)
	}
	if !proto.Equal(again.Interface(), bound) {
		t.Fatalf("the fields are those of another request:\n got %v\nwant %v", again, bound)
	}
}

// FuzzOperation gives the flattening what a peer may send. It never panics; it
// refuses exactly what cannot be named; and from what it accepts the request can
// be rebuilt, except freed fields: so two requests with the same canonical form
// are equal except for these. The generated and the dynamic message agree.
func FuzzOperation(f *testing.F) {
	all := cases()
	for _, v := range readVectors(f) {
		for i, c := range all {
			if c.name == v.Method {
				for _, wire := range v.Wire {
					f.Add(byte(i), wire)
				}
			}
		}
	}
	f.Add(byte(0), twoKeys)
	linked, dynamic := rule.Linked(), image(f)
	f.Fuzz(func(t *testing.T, which byte, wire []byte) {
		c := all[int(which)%len(all)]
		method := lookup(t, linked, c.name)
		packed := &anypb.Any{TypeUrl: "x/" + string(proto.MessageName(c.request)), Value: wire}
		request, err := method.Unpack(packed)
		if err != nil {
			if handoff.ReasonOf(err) != handoff.ReasonArgumentInvalid {
				t.Fatalf("%v is for another reason", err)
			}
			return
		}
		op, err := method.Operation(request)
		why := fault(without(request, c.free).ProtoReflect(), 0)
		switch {
		case err != nil && handoff.ReasonOf(err) != handoff.ReasonRequestUnbindable:
			t.Fatalf("%v is for another reason", err)
		case err != nil && why == "" && len(wire) < 100: // longer: it may be beyond the bounds
			t.Fatalf("refused, though it can be named: %v", err)
		case err == nil && why != "":
			t.Fatalf("accepted, though nobody can name it: %s", why)
		case err == nil:
			examine(t, c, op, request)
			inverse(t, method, op)
		}
		if c.name != server2v1.InvoiceService_PayInvoice_FullMethodName {
			agree(t, lookup(t, dynamic, c.name), packed, op, err)
		}
	})
}

// agree asks for the same of a dynamic message.
func agree(t *testing.T, method *rule.Method, packed *anypb.Any, op handoff.Operation, refused error) {
	request, err := method.Unpack(packed)
	if handoff.ReasonOf(err) == handoff.ReasonArgumentInvalid {
		return // the one decoder may refuse what the other skips
	}
	if err != nil {
		t.Fatalf("%v is for another reason", err)
	}
	twin, err := method.Operation(request)
	if (err == nil) != (refused == nil) {
		t.Fatalf("the dynamic message differs: %v; the generated: %v", err, refused)
	}
	if err == nil && (!slices.Equal(op.Bound, twin.Bound) || !slices.Equal(op.Free, twin.Free)) {
		t.Fatalf("the dynamic message differs:\n%v\n%v", twin, op)
	}
	if err == nil {
		inverse(t, method, op)
	}
}
