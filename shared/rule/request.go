package rule

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Request returns the request that a token names: the inverse of Operation. It is
// the one request of the method that has exactly the fields of the claims, bound
// and free, and so the one that the token lets run. A program that shows it to a person
// shows what was signed.
//
// The error is a *handoff.Refusal: METHOD_MISMATCH for a token of another method,
// REQUEST_UNBINDABLE for one that carries only a digest of its fields, and
// FIELD_MISMATCH for one whose fields no request of this method has: a path that
// the type lacks, a value in another spelling than its one, a list with a gap, a
// message that is named only by what is in it. A method that carries no rule is
// another error.
func (m *Method) Request(c handoff.Claims) (proto.Message, error) {
	switch {
	case m.plan == nil:
		return nil, fmt.Errorf("rule: %s carries no rule", m.name)
	case c.Method != m.name:
		return nil, &handoff.Refusal{Reason: handoff.ReasonMethodMismatch, Check: "operation.method", Detail: "the token is for another method"}
	case c.FieldsSHA256 != "":
		return nil, &handoff.Refusal{
			Reason: handoff.ReasonRequestUnbindable, Check: "operation.digest",
			Detail: "the token carries only a digest of the request's fields",
		}
	}
	request := m.request.New()
	b := builder{room: len(c.Fields)}
	for _, f := range c.Fields {
		if err := b.put(m.plan, request, f); err != nil {
			return nil, noRequest(f.Path, err)
		}
	}
	if err := m.yields(request, c.Fields); err != nil {
		return nil, noRequest("", err)
	}
	return request.Interface(), nil
}

func noRequest(path string, err error) error {
	detail := "no request has the fields that the token names"
	if path != "" {
		detail = fmt.Sprintf("no request has the field %q as the token names it", path[:min(len(path), 128)])
	}
	return &handoff.Refusal{Reason: handoff.ReasonFieldMismatch, Check: "operation.value", Detail: detail, Err: err}
}

// yields checks that the operation of a request has exactly these fields. It is
// what makes Request strict: the builder need not know which spelling is the one.
func (m *Method) yields(request protoreflect.Message, fields []handoff.Field) error {
	bound, free, err := flatten(m.plan, request)
	if err != nil {
		return err
	}
	made := slices.Concat(bound, free)
	if len(made) != len(fields) {
		return fmt.Errorf("the token names %d fields, and their request has %d", len(fields), len(made))
	}
	named := make(map[string]string, len(fields))
	for _, f := range fields {
		named[f.Path] = f.Value
	}
	for _, f := range made {
		if value, ok := named[f.Path]; !ok || value != f.Value {
			return errors.New("a field has another spelling, or is not named")
		}
	}
	return nil
}

// builder puts fields into a request, in any order. It may take more than is
// right: yields judges.
type builder struct {
	room int // how many elements of lists there can still be
}

// put sets one field, and makes the messages and elements on the way to it.
func (b *builder) put(p *plan, in protoreflect.Message, field handoff.Field) error {
	if len(field.Path) > maxPath {
		return errors.New("the path is too long")
	}
	for rest := field.Path; ; {
		name := rest[:len(rest)-len(strings.TrimLeft(rest, nameChars))]
		i := slices.IndexFunc(p.fields, func(f planField) bool { return f.name == name })
		if i < 0 {
			return errors.New("the message has no such field, or none that a token can name")
		}
		f := &p.fields[i]
		at, behind, err := b.place(f, in, rest[len(name):])
		if err != nil {
			return err
		}
		rest = behind
		if rest == "" {
			return at.set(f, field.Value)
		}
		if f.message == nil || rest[0] != '.' {
			return errors.New("the path goes on behind a value")
		}
		p, in, rest = f.message, at.message(), rest[1:]
	}
}

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

// spot is where a value stands: in a message's field, in a list or in a map.
type spot struct {
	put     func(protoreflect.Value)
	message func() protoreflect.Message // makes it, if there is none
}

// set puts a value there. A message's is made by that.
func (s spot) set(f *planField, text string) error {
	if f.message != nil {
		s.message()
		if text != emptyMessage {
			return errors.New("a message has the value {}")
		}
		return nil
	}
	v, err := f.parse(text)
	if err != nil {
		return err
	}
	s.put(v)
	return nil
}

// place finds the spot that a path names behind a field's name, and the rest of the
// path.
func (b *builder) place(f *planField, in protoreflect.Message, path string) (spot, string, error) {
	switch f.shape {
	case list:
		index, rest, err := cutIndex(path)
		if err != nil {
			return spot{}, "", err
		}
		s, err := b.element(in.Mutable(f.desc).List(), index)
		return s, rest, err
	case mapping:
		key, rest, err := cutKey(path)
		if err != nil {
			return spot{}, "", err
		}
		k, err := parseKey(f.desc.MapKey(), key)
		if err != nil {
			return spot{}, "", err
		}
		entries := in.Mutable(f.desc).Map()
		return spot{
			put:     func(v protoreflect.Value) { entries.Set(k, v) },
			message: func() protoreflect.Message { return entries.Mutable(k).Message() },
		}, rest, nil
	}
	return spot{
		put:     func(v protoreflect.Value) { in.Set(f.desc, v) },
		message: func() protoreflect.Message { return in.Mutable(f.desc).Message() },
	}, path, nil
}

// element makes a list so long that it has an index.
func (b *builder) element(l protoreflect.List, index int) (spot, error) {
	for l.Len() <= index {
		if b.room--; b.room < 0 {
			return spot{}, errors.New("a list has a gap")
		}
		l.Append(l.NewElement())
	}
	return spot{
		put:     func(v protoreflect.Value) { l.Set(index, v) },
		message: func() protoreflect.Message { return l.Get(index).Message() },
	}, nil
}

var errIndex = errors.New("an element of a list has its index in brackets")

func cutIndex(path string) (index int, rest string, err error) {
	if !strings.HasPrefix(path, "[") {
		return 0, "", errIndex
	}
	digits, rest, ok := strings.Cut(path[1:], "]")
	index, err = strconv.Atoi(digits)
	if !ok || err != nil || index < 0 {
		return 0, "", errIndex
	}
	return index, rest, nil
}

// cutKey reads the JSON string in the brackets that begin a path.
func cutKey(path string) (key, rest string, err error) {
	end := 2
	for end < len(path) && path[end] != '"' {
		if path[end] == '\\' {
			end++
		}
		end++
	}
	if !strings.HasPrefix(path, `["`) || end >= len(path)-1 || path[end+1] != ']' ||
		json.Unmarshal([]byte(path[1:end+1]), &key) != nil {
		return "", "", errors.New("an entry of a map has its key in brackets, as a JSON string")
	}
	return key, path[end+2:], nil
}

func parseKey(desc protoreflect.FieldDescriptor, text string) (protoreflect.MapKey, error) {
	f := planField{kind: desc.Kind()}
	v, err := f.parse(text)
	if err != nil {
		return protoreflect.MapKey{}, err
	}
	return v.MapKey(), nil
}

// parse returns a scalar from its text.
func (f *planField) parse(text string) (protoreflect.Value, error) {
	switch f.kind {
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(text)
		return protoreflect.ValueOfBool(b), err
	case protoreflect.EnumKind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), err
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		return protoreflect.ValueOfInt64(n), err
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := strconv.ParseUint(text, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)), err
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := strconv.ParseUint(text, 10, 64)
		return protoreflect.ValueOfUint64(n), err
	case protoreflect.FloatKind:
		bits, err := strconv.ParseUint(text, 16, 32)
		return protoreflect.ValueOfFloat32(math.Float32frombits(uint32(bits))), err
	case protoreflect.DoubleKind:
		bits, err := strconv.ParseUint(text, 16, 64)
		return protoreflect.ValueOfFloat64(math.Float64frombits(bits)), err
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BytesKind:
		b, err := base64.RawURLEncoding.Strict().DecodeString(text)
		return protoreflect.ValueOfBytes(b), err
	}
	return protoreflect.Value{}, errors.New("it is of a kind that no token can name")
}
