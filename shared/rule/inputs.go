package rule

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Input is a field that a token leaves to the one who presents it.
type Input struct {
	// Path names the field: with a value behind the token's own fields, Request
	// makes a request of both.
	Path string
	// Field describes it: a Boolean, an integer, an enum or a string.
	Field protoreflect.FieldDescriptor
}

// Inputs returns what a person may fill in where a token is redeemed, in the order
// of the paths: the fields that the rule frees and the token does not name, of one
// value that can be typed, in a message that is there. A oneof's members are not
// among them: one would displace another.
func (m *Method) Inputs(c handoff.Claims) (inputs []Input) {
	if m.plan != nil {
		findInputs(m.plan, "", c, &inputs)
	}
	slices.SortFunc(inputs, func(a, b Input) int { return strings.Compare(a.Path, b.Path) })
	return inputs
}

func findInputs(p *plan, at string, c handoff.Claims, to *[]Input) {
	for i := range p.fields {
		f := &p.fields[i]
		path := join(at, f.desc)
		named := slices.ContainsFunc(c.Fields, func(field handoff.Field) bool { return field.Path == path })
		oneof := f.desc.ContainingOneof()
		switch {
		case f.shape != single || oneof != nil && !oneof.IsSynthetic():
		case f.message != nil && named && !f.free:
			findInputs(f.message, path, c, to)
		case f.free && !named && canBeTyped(f.kind):
			*to = append(*to, Input{Path: path, Field: f.desc})
		}
	}
}

func canBeTyped(kind protoreflect.Kind) bool {
	switch kind {
	case protoreflect.MessageKind, protoreflect.BytesKind, protoreflect.FloatKind, protoreflect.DoubleKind:
		return false
	}
	return true
}
