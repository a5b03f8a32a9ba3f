package rule_test

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
)

// draw populates m with fields that a token can name.
func draw(t *rapid.T, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !rapid.Bool().Draw(t, string(field.Name())) || depth == 0 && hasMessages(field) {
			continue
		}
		n := rapid.IntRange(0, 12).Draw(t, "length")
		switch {
		case field.IsList():
			for range n {
				l := m.Mutable(field).List()
				l.Append(drawValue(t, field, l.NewElement(), depth))
			}
		case field.IsMap():
			for range n {
				entries := m.Mutable(field).Map()
				key := drawValue(t, field.MapKey(), protoreflect.Value{}, 0).MapKey()
				entries.Set(key, drawValue(t, field.MapValue(), entries.NewValue(), depth))
			}
		default:
			m.Set(field, drawValue(t, field, m.NewField(field), depth))
		}
	}
}

func hasMessages(field protoreflect.FieldDescriptor) bool {
	if field.IsMap() {
		field = field.MapValue()
	}
	return field.Message() != nil
}

func drawValue(t *rapid.T, field protoreflect.FieldDescriptor, zero protoreflect.Value, depth int) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if depth > 0 {
			draw(t, zero.Message(), depth-1)
		}
		return zero
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		values := field.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(rapid.IntRange(0, values.Len()-1).Draw(t, "enum")).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(rapid.Float32().Draw(t, "float"))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rapid.Float64().Draw(t, "double"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "bytes"))
	default:
		return protoreflect.ValueOfString(rapid.StringN(0, 5, -1).Draw(t, "string"))
	}
}

// site is one thing in a request that can be changed: a value, an element, an
// entry, or whether they are there at all.
type site struct {
	names  string // the field names on the way to it: "leaves.note"
	change func()
}

// sites finds every one, in the same order for equal messages.
func sites(m protoreflect.Message, at string) (found []site) {
	add := func(names string, change func()) { found = append(found, site{names, change}) }
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		names := strings.TrimPrefix(at+"."+string(field.Name()), ".")
		switch {
		case !m.Has(field):
			if field.HasPresence() && field.ContainingOneof() == nil {
				add(names, func() { m.Set(field, m.NewField(field)) })
			}
		case field.IsList():
			l := m.Mutable(field).List()
			add(names, func() { l.Append(l.NewElement()) })
			add(names, func() { l.Truncate(l.Len() - 1) })
			for i := range l.Len() {
				if field.Message() != nil {
					found = append(found, sites(l.Get(i).Message(), names)...)
				} else {
					add(names, func() { l.Set(i, other(field, l.Get(i))) })
				}
			}
		case field.IsMap():
			entries := m.Mutable(field).Map()
			for _, key := range keys(entries) {
				add(names, func() { entries.Clear(key) })
				if field.MapValue().Message() != nil {
					found = append(found, sites(entries.Get(key).Message(), names)...)
				} else {
					add(names, func() { entries.Set(key, other(field.MapValue(), entries.Get(key))) })
				}
			}
		case field.Message() != nil:
			add(names, func() { m.Clear(field) })
			found = append(found, sites(m.Mutable(field).Message(), names)...)
		default:
			add(names, func() { m.Clear(field) })
			add(names, func() { m.Set(field, other(field, m.Get(field))) })
		}
	}
	return found
}

func keys(m protoreflect.Map) (keys []protoreflect.MapKey) {
	m.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, key)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return cmp.Compare(a.String(), b.String()) })
	return keys
}

// other returns a value of the field that v is not.
func other(field protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch x := v.Interface().(type) {
	case bool:
		return protoreflect.ValueOfBool(!x)
	case int32:
		return protoreflect.ValueOfInt32(x + 1)
	case int64:
		return protoreflect.ValueOfInt64(x ^ 1<<40)
	case uint32:
		return protoreflect.ValueOfUint32(x - 1)
	case uint64:
		return protoreflect.ValueOfUint64(x ^ 1<<63)
	case float32:
		return protoreflect.ValueOfFloat32(-x)
	case float64:
		return protoreflect.ValueOfFloat64(-x)
	case []byte:
		return protoreflect.ValueOfBytes(append(slices.Clone(x), 0))
	case protoreflect.EnumNumber:
		values := field.Enum().Values()
		for i := range values.Len() {
			if n := values.Get(i).Number(); n != x {
				return protoreflect.ValueOfEnum(n)
			}
		}
		return protoreflect.ValueOfEnum(x ^ 1<<20)
	default:
		return protoreflect.ValueOfString(v.String() + "\x00")
	}
}

// frees reports whether one of the paths frees what stands at names.
func frees(paths []string, names string) bool {
	return slices.ContainsFunc(paths, func(path string) bool {
		return names == path || strings.HasPrefix(names, path+".")
	})
}

// A request differs in one place: its operation differs too, or the rule frees
// the place and nothing that is bound differs.
func TestOneChangeIsAnotherOperation(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			method := lookup(t, rule.Linked(), c.name)
			rapid.Check(t, func(t *rapid.T) {
				request := c.request.ProtoReflect().New()
				draw(t, request, 2)
				before := operation(t, method, request)
				all := sites(request, "")
				if len(all) == 0 {
					t.Skip("nothing to change")
				}
				at := rapid.IntRange(0, len(all)-1).Draw(t, "site")
				changed := twin(request.Interface()).ProtoReflect()
				there := sites(changed, "")[at]
				there.change()
				after, err := method.Operation(changed.Interface())
				switch {
				case frees(c.free, there.names):
					if err != nil || !slices.Equal(before.Bound, after.Bound) {
						t.Fatalf("%s is free, but the change shows: %v, %v", there.names, after.Bound, err)
					}
				case err != nil:
					if handoff.ReasonOf(err) != handoff.ReasonRequestUnbindable {
						t.Fatal(err)
					}
				case slices.Equal(before.Bound, after.Bound):
					t.Fatalf("%s changed, and the operation did not: %v", there.names, after.Bound)
				}
			})
		})
	}
}

// Every request that can be drawn can be named, comes in canonical order, and can
// be rebuilt from its fields.
func TestDrawnRequestsAreNamed(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			method := lookup(t, rule.Linked(), c.name)
			rapid.Check(t, func(t *rapid.T) {
				request := c.request.ProtoReflect().New()
				draw(t, request, 3)
				op := operation(t, method, request)
				examine(t, c, op, request.Interface())
				inverse(t, method, op)
			})
		})
	}
}

func operation(t *rapid.T, method *rule.Method, request protoreflect.Message) handoff.Operation {
	op, err := method.Operation(request.Interface())
	if err != nil {
		t.Fatal(err)
	}
	return op
}
