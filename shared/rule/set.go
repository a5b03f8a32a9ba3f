package rule

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/handoff-auth/handoff/shared/handoff"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// ErrUnknownMethod is the error of Set.Method for a method that none of the
// set's services has.
var ErrUnknownMethod = errors.New("no such method")

// Set is the methods that can be looked up. It is immutable and safe for
// concurrent use.
type Set struct {
	files *protoregistry.Files
	types resolver
	over  map[string]*handoffv1.Rule // what Overlay says, by method; in place of the option
}

// resolver finds the types that a request is decoded with. *protoregistry.Types
// and *dynamicpb.Types are ones.
type resolver interface {
	protoregistry.MessageTypeResolver
	protoregistry.ExtensionTypeResolver
}

// Linked returns the methods whose generated Go is linked into the program.
func Linked() *Set {
	return &Set{files: protoregistry.GlobalFiles, types: protoregistry.GlobalTypes}
}

// ReadDescriptorSet returns the methods of a serialized
// google.protobuf.FileDescriptorSet, as `buf build -o set.binpb` and `protoc
// --include_imports --descriptor_set_out=set.binpb` write it. The set must
// contain every file that its files import. Requests of its methods are dynamic
// messages: use Method.Unpack to make them.
func ReadDescriptorSet(b []byte) (*Set, error) {
	var fds descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(b, &fds); err != nil {
		return nil, fmt.Errorf("rule: not a google.protobuf.FileDescriptorSet: %w", err)
	}
	if len(fds.File) == 0 {
		return nil, errors.New("rule: the descriptor set has no files")
	}
	files, err := protodesc.NewFiles(&fds)
	if err != nil {
		return nil, fmt.Errorf("rule: the descriptor set is not complete; was it built with its imports? %w", err)
	}
	types := dynamicpb.NewTypes(files)
	option := handoffv1.E_Rule.TypeDescriptor()
	other, err := types.FindExtensionByNumber(option.ContainingMessage().FullName(), option.Number())
	if err == nil && other.TypeDescriptor().FullName() != option.FullName() {
		return nil, fmt.Errorf("rule: the descriptor set gives the number of the method option %s, %d, to %s",
			option.FullName(), option.Number(), other.TypeDescriptor().FullName())
	}
	return &Set{files: files, types: types}, nil
}

// Method returns a method by its full name with the leading slash, as grpc-go
// spells it: "/billing.v1.Billing/Pay". The error wraps ErrUnknownMethod where
// the set has no such method; otherwise it says what is wrong with the method's
// rule: it stands on a client-streaming method, frees a field that the request
// does not have, sets a lifetime out of range, or leaves a field bound that
// cannot be. Looking up costs far more than using a Method: keep it.
func (s *Set) Method(fullMethod string) (*Method, error) {
	desc := s.find(fullMethod)
	if desc == nil {
		return nil, fmt.Errorf("rule: %q: %w", fullMethod, ErrUnknownMethod)
	}
	m := &Method{name: fullMethod, request: s.messageType(desc.Input()), types: s.types}
	if !desc.IsStreamingClient() && !desc.IsStreamingServer() {
		m.answer = s.messageType(desc.Output())
	}
	rule, laid := s.over[fullMethod]
	var err error
	if !laid {
		rule, err = optionOf(desc)
	}
	if err == nil && rule != nil {
		err = m.apply(rule, desc)
	}
	if err != nil {
		return nil, fmt.Errorf("rule: %s: %w", fullMethod, err)
	}
	return m, nil
}

func (s *Set) find(fullMethod string) protoreflect.MethodDescriptor {
	name, ok := strings.CutPrefix(fullMethod, "/")
	service, method, cut := strings.Cut(name, "/")
	if !ok || !cut {
		return nil
	}
	found, err := s.files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	desc, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	return desc.Methods().ByName(protoreflect.Name(method))
}

// messageType returns the type with exactly the descriptor desc: the generated
// one where it is linked, else a dynamic one.
func (s *Set) messageType(desc protoreflect.MessageDescriptor) protoreflect.MessageType {
	if linked, err := s.types.FindMessageByName(desc.FullName()); err == nil && linked.Descriptor() == desc {
		return linked
	}
	return dynamicpb.NewMessageType(desc)
}

// Operation returns the operation of req as a request of fullMethod, which is
// linked into the program. The error is as those of Set.Method and
// Method.Operation.
func Operation(fullMethod string, req proto.Message) (handoff.Operation, error) {
	m, err := Linked().Method(fullMethod)
	if err != nil {
		return handoff.Operation{}, err
	}
	return m.Operation(req)
}
