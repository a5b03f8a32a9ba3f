package rule_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// canonical is the RFC 8785 form of what a token for op names, by another
// implementation than package handoff's. The error says why op is no operation.
func canonical(op handoff.Operation) ([]byte, error) {
	members := map[string]string{}
	for _, f := range op.Bound {
		_, twice := members[f.Path]
		if twice || f.Path == "" || !utf8.ValidString(f.Path) || !utf8.ValidString(f.Value) {
			return nil, fmt.Errorf("the field %q is not text, or not the only one", f.Path)
		}
		members[f.Path] = f.Value
	}
	plain, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	text := jsontext.Value(plain)
	err = text.Canonicalize()
	return text, err
}

// rebuild makes the request that fields were made from. It reads paths and values
// by SPEC.md and shares nothing with what makes them: a request that can be
// rebuilt is the only one with its canonical form.
func rebuild(m protoreflect.Message, fields []handoff.Field) error {
	for _, f := range fields {
		if err := put(m, f.Path, f.Value); err != nil {
			return fmt.Errorf("%s = %q: %w", f.Path, f.Value, err)
		}
	}
	return nil
}

func put(m protoreflect.Message, path, value string) error {
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		end = len(path)
	}
	field := m.Descriptor().Fields().ByName(protoreflect.Name(path[:end]))
	rest := path[end:]
	switch {
	case field == nil:
		return fmt.Errorf("no field %q", path[:end])
	case field.IsList():
		return putElement(m.Mutable(field).List(), field, rest, value)
	case field.IsMap():
		return putEntry(m.Mutable(field).Map(), field, rest, value)
	case rest == "":
		v, err := parse(field, m.NewField(field), value)
		if err == nil {
			m.Set(field, v)
		}
		return err
	case rest[0] == '.' && m.Has(field):
		return put(m.Mutable(field).Message(), rest[1:], value)
	}
	return fmt.Errorf("%q does not follow from what came before", rest)
}

func putElement(l protoreflect.List, field protoreflect.FieldDescriptor, rest, value string) error {
	text, rest, ok := strings.Cut(strings.TrimPrefix(rest, "["), "]")
	index, err := strconv.Atoi(text)
	if !ok || err != nil || strconv.Itoa(index) != text {
		return fmt.Errorf("%q is not an index", text)
	}
	for l.Len() <= index {
		l.Append(l.NewElement())
	}
	if rest != "" {
		return put(l.Get(index).Message(), rest[1:], value)
	}
	v, err := parse(field, l.NewElement(), value)
	if err == nil {
		l.Set(index, v)
	}
	return err
}

func putEntry(m protoreflect.Map, field protoreflect.FieldDescriptor, rest, value string) error {
	var text string
	decoder := json.NewDecoder(strings.NewReader(strings.TrimPrefix(rest, "[")))
	if err := decoder.Decode(&text); err != nil {
		return err
	}
	rest = rest[1+decoder.InputOffset():]
	key, err := parse(field.MapKey(), protoreflect.Value{}, text)
	if err != nil {
		return err
	}
	if rest != "]" {
		return put(m.Get(key.MapKey()).Message(), rest[2:], value)
	}
	v, err := parse(field.MapValue(), m.NewValue(), value)
	if err == nil {
		m.Set(key.MapKey(), v)
	}
	return err
}

// parse reads a value's text. zero is a new value, for a message.
func parse(field protoreflect.FieldDescriptor, zero protoreflect.Value, text string) (protoreflect.Value, error) {
	switch field.Kind() {
	case protoreflect.MessageKind:
		if text != "{}" {
			return zero, fmt.Errorf("not a message")
		}
		return zero, nil
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(text == "true"), oneOf(text, "true", "false")
	case protoreflect.EnumKind:
		n, err := decimal(text, 32)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), err
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := decimal(text, 32)
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := decimal(text, 64)
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
	return zero, fmt.Errorf("kind %v", field.Kind())
}

func oneOf(text string, of ...string) error {
	for _, s := range of {
		if s == text {
			return nil
		}
	}
	return fmt.Errorf("none of %q", of)
}

func decimal(text string, bits int) (int64, error) {
	n, err := strconv.ParseInt(text, 10, bits)
	if err == nil && strconv.FormatInt(n, 10) != text {
		err = fmt.Errorf("not the shortest spelling")
	}
	return n, err
}

// twin returns a copy of m. It is made through the wire: proto.Clone forgets the
// sign of a zero.
func twin(m proto.Message) proto.Message {
	b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
	copied := m.ProtoReflect().New().Interface()
	if err == nil {
		err = proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(b, copied)
	}
	if err != nil {
		panic(err)
	}
	return copied
}

// without returns a copy of m without what the paths free.
func without(m proto.Message, paths []string) proto.Message {
	m = twin(m)
	for _, path := range paths {
		clearPath(m.ProtoReflect(), strings.Split(path, "."))
	}
	return m
}

func clearPath(m protoreflect.Message, names []string) {
	field := m.Descriptor().Fields().ByName(protoreflect.Name(names[0]))
	switch {
	case !m.Has(field):
	case len(names) == 1:
		m.Clear(field)
	case field.IsList():
		for i := range m.Get(field).List().Len() {
			clearPath(m.Get(field).List().Get(i).Message(), names[1:])
		}
	case field.IsMap():
		m.Get(field).Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
			clearPath(v.Message(), names[1:])
			return true
		})
	default:
		clearPath(m.Mutable(field).Message(), names[1:])
	}
}

// fault says what in m no token can name; empty: nothing.
func fault(m protoreflect.Message, depth int) (found string) {
	if len(m.GetUnknown()) > 0 {
		return "unknown field"
	}
	if depth > 32 {
		return "too deep"
	}
	look := func(field protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch field.Kind() {
		case protoreflect.MessageKind:
			if f := fault(v.Message(), depth+1); f != "" {
				found = f
			}
		case protoreflect.GroupKind:
			found = "group"
		case protoreflect.EnumKind:
			if field.Enum().Values().ByNumber(v.Enum()) == nil {
				found = "unknown enum number"
			}
		case protoreflect.FloatKind, protoreflect.DoubleKind:
			if math.IsNaN(v.Float()) {
				found = "NaN"
			}
		case protoreflect.StringKind:
			if !utf8.ValidString(v.String()) {
				found = "not UTF-8"
			}
		}
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsExtension():
			found = "extension"
		case field.IsList():
			for i := range v.List().Len() {
				look(field, v.List().Get(i))
			}
		case field.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				look(field.MapKey(), key.Value())
				look(field.MapValue(), v)
				return true
			})
		default:
			look(field, v)
		}
		return true
	})
	return found
}
