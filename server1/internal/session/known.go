package session

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/server1/internal/answer"
)

// known refuses a request that has, at any depth, a field that this server does not
// know: a caller that relies on it would be served something else. It names the
// message that has the field. What is packed in an Any is looked at by who unpacks it.
func known(req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	if path, found := unknownIn(m.ProtoReflect(), ""); found {
		return answer.Invalid(path, "has a field that this server does not know")
	}
	return nil
}

// unknownIn returns the path of a message within m, or m itself, that has an unknown
// field.
func unknownIn(m protoreflect.Message, at string) (path string, found bool) {
	if len(m.GetUnknown()) > 0 {
		return at, true
	}
	look := func(name protoreflect.Name, v protoreflect.Value) bool {
		within := string(name)
		if at != "" {
			within = at + "." + within
		}
		path, found = unknownIn(v.Message(), within)
		return !found
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { return look(field.Name(), v) })
			}
		case field.Message() == nil:
		case field.IsList():
			for i := 0; i < v.List().Len() && look(field.Name(), v.List().Get(i)); i++ {
			}
		default:
			look(field.Name(), v)
		}
		return !found
	})
	return path, found
}
