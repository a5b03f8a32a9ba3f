package rule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/shared/handoff"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// Method is one method of a service, and what its rule demands. It is immutable
// and safe for concurrent use.
type Method struct {
	name    string
	request protoreflect.MessageType
	answer  protoreflect.MessageType // nil: a stream of them
	types   resolver
	rule    handoff.Rule
	plan    *plan // how requests are flattened; nil: the method carries no rule
}

// Name returns the full method name with its leading slash.
func (m *Method) Name() string { return m.name }

// Rule returns what the method demands of a token. It is false for a method
// that carries no rule: no token can be issued for it.
func (m *Method) Rule() (handoff.Rule, bool) { return m.rule, m.plan != nil }

// NewRequest returns an empty request of the method.
func (m *Method) NewRequest() proto.Message { return m.request.New().Interface() }

// NewResponse returns an empty response of the method, to be received into. It is
// nil for a method that streams.
func (m *Method) NewResponse() proto.Message {
	if m.answer == nil {
		return nil
	}
	return m.answer.New().Interface()
}

// Operation returns the operation of req: what a token must name for this call
// to run. A req that no token can name is refused with a *handoff.Refusal,
// REQUEST_UNBINDABLE, whose Detail is fit for a field violation: it says what is
// wrong, behind the quoted path of the field if it is not the request itself. A
// nil req, one of another type, or a method that carries no rule is another error.
// The operation shares the strings of req.
func (m *Method) Operation(req proto.Message) (handoff.Operation, error) {
	if m.plan == nil {
		return handoff.Operation{}, fmt.Errorf("rule: %s carries no rule", m.name)
	}
	if req == nil || !req.ProtoReflect().IsValid() {
		return handoff.Operation{}, fmt.Errorf("rule: the request of %s is nil", m.name)
	}
	message := req.ProtoReflect()
	if message.Descriptor() != m.request.Descriptor() {
		return handoff.Operation{}, fmt.Errorf("rule: %s takes a %s of its own descriptor, not this %s",
			m.name, m.request.Descriptor().FullName(), message.Descriptor().FullName())
	}
	bound, free, err := flatten(m.plan, message)
	if err != nil {
		return handoff.Operation{}, err
	}
	return handoff.Operation{Method: m.name, Bound: bound, Free: free, MaxLifetime: m.rule.MaxLifetime, Sealed: m.rule.Sealed, CertificateBound: m.rule.CertificateBound, Actors: m.rule.Actors}, nil
}

// Unpack returns the method's typed request from its packed form. It refuses a
// type URL that does not end in "/" and the request's full name, and a value that
// is not such a message, with a *handoff.Refusal, ARGUMENT_INVALID, whose Detail
// is fit for a field violation. Fields that the type does not have are kept, so
// that Operation refuses them.
func (m *Method) Unpack(req *anypb.Any) (proto.Message, error) {
	want := m.request.Descriptor().FullName()
	url := req.GetTypeUrl()
	if slash := strings.LastIndexByte(url, '/'); slash < 0 || url[slash+1:] != string(want) {
		return nil, invalid(fmt.Sprintf("type_url does not end in %q, the request of %s", "/"+want, m.name), nil)
	}
	message := m.request.New().Interface()
	if err := decode(req.GetValue(), message, m.types); err != nil {
		return nil, invalid(fmt.Sprintf("value does not decode as a %s", want), err)
	}
	return message, nil
}

// decode decodes what a peer sent. protobuf's decoder of dynamic messages panics
// on a map entry that has its key twice, the second time with another wire type
// (v1.36.12): a peer's bytes must not end the program.
func decode(b []byte, message proto.Message, types resolver) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the decoder failed")
		}
	}()
	return proto.UnmarshalOptions{Resolver: types}.Unmarshal(b, message)
}

func invalid(detail string, err error) error {
	return &handoff.Refusal{Reason: handoff.ReasonArgumentInvalid, Check: "operation.bind", Detail: detail, Err: err}
}

// optionOf returns the rule that stands on a method, nil for none. It reads the
// option from the options' bytes: in a descriptor from elsewhere it may be an
// unknown field, or of a type that is not the generated one.
func optionOf(desc protoreflect.MethodDescriptor) (*handoffv1.Rule, error) {
	b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(desc.Options())
	if err != nil {
		return nil, fmt.Errorf("the method's options: %w", err)
	}
	var options descriptorpb.MethodOptions
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(b, &options); err != nil {
		return nil, fmt.Errorf("the method's options: %w", err)
	}
	if !proto.HasExtension(&options, handoffv1.E_Rule) {
		return nil, nil
	}
	rule := proto.GetExtension(&options, handoffv1.E_Rule).(*handoffv1.Rule)
	if len(rule.ProtoReflect().GetUnknown()) > 0 || len(rule.GetMaxLifetime().ProtoReflect().GetUnknown()) > 0 {
		return nil, errors.New("its rule says something that this version of handoff does not know")
	}
	return rule, nil
}

// apply makes the rule the method's own, or says why it cannot hold.
func (m *Method) apply(rule *handoffv1.Rule, desc protoreflect.MethodDescriptor) error {
	if desc.IsStreamingClient() {
		return errors.New("a client-streaming method cannot carry a rule: a token names one request")
	}
	lifetime, err := maxLifetime(rule.GetMaxLifetime())
	if err != nil {
		return err
	}
	plan, err := newPlan(desc.Input(), rule.GetFree())
	if err != nil {
		return err
	}
	switch {
	case rule.GetVisit() && !rule.GetReusable():
		return errors.New("its rule says visit, which needs reusable: a visit is for calls that change nothing")
	case rule.GetVisit() && rule.GetSealed():
		return errors.New("its rule says visit and sealed: a visit is never sealed")
	}
	m.rule = handoff.Rule{Reusable: rule.GetReusable(), MaxLifetime: lifetime, Sealed: rule.GetSealed(), CertificateBound: rule.GetCertificateBound(), Actors: rule.GetActors(), Visit: rule.GetVisit()}
	m.plan = plan
	return nil
}

func maxLifetime(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if d.CheckValid() != nil || d.GetSeconds() < 1 || d.GetNanos() != 0 {
		return 0, errors.New("its rule's max_lifetime must be whole seconds from 1s")
	}
	return d.AsDuration(), nil
}
