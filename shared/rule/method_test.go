package rule_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	pb "github.com/handoff-auth/handoff/shared/rule/internal/vectorspb"
)

const (
	payMethod    = server2v1.InvoiceService_PayInvoice_FullMethodName
	strictMethod = "/handoff.vectors.v1.VectorService/Strict"
	looseMethod  = "/handoff.vectors.v1.VectorService/Loose"
)

var twoKeys = []byte{0x2a, 6, 0x32, 4, 0x08, 0x30, 0x0a, 0}

func packed(name string, value []byte) *anypb.Any {
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + name, Value: value}
}

// An error about a request of another type is the program's, not the peer's: it
// is no Refusal.
func TestOperationRefusesAnotherType(t *testing.T) {
	strict := lookup(t, rule.Linked(), strictMethod)
	for name, c := range map[string]struct {
		method  *rule.Method
		request proto.Message
	}{
		"nil":                 {strict, nil},
		"nil message":         {strict, (*pb.Request)(nil)},
		"another message":     {strict, &emptypb.Empty{}},
		"another's namesake":  {strict, dynamicpb.NewMessage(lookupRequest(t, image(t)))},
		"generated for image": {lookup(t, image(t), strictMethod), &pb.Request{}},
		"no rule":             {lookup(t, rule.Linked(), "/handoff.vectors.v1.VectorService/Open"), &pb.Request{}},
	} {
		op, err := c.method.Operation(c.request)
		if err == nil || handoff.ReasonOf(err) != 0 {
			t.Errorf("%s: got %v, %v", name, op, err)
		}
	}
	if _, err := strict.Operation(&pb.Request{}); err != nil {
		t.Errorf("the control: %v", err)
	}
}

func lookupRequest(t *testing.T, set *rule.Set) (desc protoreflect.MessageDescriptor) {
	t.Helper()
	request, err := lookup(t, set, strictMethod).Unpack(packed("handoff.vectors.v1.Request", nil))
	if err != nil {
		t.Fatal(err)
	}
	return request.ProtoReflect().Descriptor()
}

func TestUnpack(t *testing.T) {
	request := &pb.Request{Memo: "m", Leaf: &pb.Leaf{Number: 3}}
	b, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	method := lookup(t, rule.Linked(), strictMethod)
	for _, url := range []string{
		"type.googleapis.com/handoff.vectors.v1.Request", "/handoff.vectors.v1.Request", "a/b/handoff.vectors.v1.Request",
	} {
		got, err := method.Unpack(&anypb.Any{TypeUrl: url, Value: b})
		if err != nil || !proto.Equal(got, request) {
			t.Errorf("%s: got %v, %v", url, got, err)
		}
		if _, ok := got.(*pb.Request); !ok {
			t.Errorf("%s: got a %T, not the generated type", url, got)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	const name = "handoff.vectors.v1.Request"
	for what, req := range map[string]*anypb.Any{
		"nil":               nil,
		"nothing":           {},
		"no slash":          {TypeUrl: name},
		"another type":      packed("handoff.vectors.v1.Leaf", nil),
		"a longer name":     packed("x"+name, nil),
		"a nested name":     packed(name+".Request", nil),
		"a trailing slash":  packed(name+"/", nil),
		"another case":      packed(strings.ToLower(name), nil),
		"escaped":           packed("handoff.vectors.v1%2eRequest", nil),
		"a query":           packed(name+"?", nil),
		"cut off":           packed(name, []byte{0x0a, 5, 'm'}),
		"no message":        packed(name, []byte{0xff}),
		"field number zero": packed(name, []byte{0x00, 0x00}),
		"an end of a group": packed(name, []byte{0x0c}),
		"text not UTF-8":    packed(name, []byte{0x0a, 1, 0xff}),
	} {
		got, err := lookup(t, rule.Linked(), strictMethod).Unpack(req)
		var refusal *handoff.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != handoff.ReasonArgumentInvalid || refusal.Detail == "" {
			t.Errorf("%s: got %v, %v; want ARGUMENT_INVALID with a detail", what, got, err)
		}
	}
	legacy := lookup(t, rule.Linked(), "/handoff.vectors.v1.LegacyService/Legacy")
	if got, err := legacy.Unpack(packed("handoff.vectors.v1.LegacyRequest", nil)); handoff.ReasonOf(err) != handoff.ReasonArgumentInvalid {
		t.Errorf("a required field is missing: got %v, %v", got, err)
	}
}

// Unpack keeps what the type does not have, so that Operation refuses it.
func TestUnpackKeepsUnknownFields(t *testing.T) {
	for _, set := range []*rule.Set{rule.Linked(), image(t)} {
		method := lookup(t, set, strictMethod)
		request, err := method.Unpack(packed("handoff.vectors.v1.Request", []byte{0x42, 3, 0xb8, 0x3e, 1}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = method.Operation(request)
		var refusal *handoff.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != handoff.ReasonRequestUnbindable {
			t.Fatalf("got %v, want REQUEST_UNBINDABLE", err)
		}
		if want := `"leaf": it has an unknown field, number 999`; refusal.Detail != want {
			t.Errorf("detail %s, want %s", refusal.Detail, want)
		}
	}
}

// protobuf's decoder of dynamic messages panics on this request, in which a map's
// entry has two keys. The generated type's takes the first.
func TestUnpackOutlivesTheDecoder(t *testing.T) {
	request := packed("handoff.vectors.v1.Request", twoKeys)
	if _, err := lookup(t, rule.Linked(), strictMethod).Unpack(request); err != nil {
		t.Error(err)
	}
	got, err := lookup(t, image(t), strictMethod).Unpack(request)
	if err != nil && (got != nil || handoff.ReasonOf(err) != handoff.ReasonArgumentInvalid) {
		t.Errorf("got %v, %v; want ARGUMENT_INVALID", got, err)
	}
}
