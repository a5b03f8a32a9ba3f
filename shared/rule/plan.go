package rule

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// A plan is how the messages of one type are flattened at one place of a
// request. The plan of a recursive type leads back to itself.
type plan struct {
	fields []planField // in the order of their paths
	// About how many fields a request yields: what to make room for.
	bound, free int
}

type planField struct {
	desc    protoreflect.FieldDescriptor
	name    string
	free    bool // the rule frees it, with everything below
	shape   shape
	kind    protoreflect.Kind                 // of the value, the element, or the map's value
	enum    protoreflect.EnumValueDescriptors // of an enum
	message *plan                             // of a message
}

// begins returns how the field's paths begin: "a[" stands behind "a0" and "aB".
func (f *planField) begins() string {
	if f.shape == single {
		return f.name
	}
	return f.name + "["
}

type shape uint8

const (
	single shape = iota
	list
	mapping
)

// newPlan returns the plan for requests of a type of which the rule frees paths,
// or says which path is wrong or which field must be freed.
func newPlan(request protoreflect.MessageDescriptor, paths []string) (*plan, error) {
	freed := &freePaths{}
	for _, path := range paths {
		if err := freed.add(request, path); err != nil {
			return nil, err
		}
	}
	p, err := planner{}.message(request, "", freed)
	if err != nil {
		return nil, err
	}
	p.measure()
	return p, nil
}

// freePaths is the free paths of a rule as a tree of field names.
type freePaths struct {
	whole bool // a path ends here
	below map[protoreflect.Name]*freePaths
}

// add adds a path, which names fields from the message in on.
func (f *freePaths) add(in protoreflect.MessageDescriptor, path string) error {
	for name := range strings.SplitSeq(path, ".") {
		var field protoreflect.FieldDescriptor
		if in != nil {
			field = in.Fields().ByName(protoreflect.Name(name))
		}
		if field == nil {
			return fmt.Errorf("its rule frees %q, which the request does not have", path)
		}
		if f.whole {
			return fmt.Errorf("its rule frees %q, which another of its paths frees already", path)
		}
		if f.below == nil {
			f.below = map[protoreflect.Name]*freePaths{}
		}
		if f.below[field.Name()] == nil {
			f.below[field.Name()] = &freePaths{}
		}
		f = f.below[field.Name()]
		in = valueOf(field).Message()
	}
	if f.whole || f.below != nil {
		return fmt.Errorf("its rule frees %q, which contains or repeats another of its paths", path)
	}
	f.whole = true
	return nil
}

// at returns what is freed from the named field on; nil: nothing.
func (f *freePaths) at(name protoreflect.Name) *freePaths {
	if f == nil {
		return nil
	}
	return f.below[name]
}

// valueOf returns the descriptor of what a field holds: a map field's values are
// its entries' second field.
func valueOf(field protoreflect.FieldDescriptor) protoreflect.FieldDescriptor {
	if field.IsMap() {
		return field.MapValue()
	}
	return field
}

// planner makes each plan once: a type has one for every place with free paths
// of its own, and one for all others.
type planner map[place]*plan

type place struct {
	message protoreflect.MessageDescriptor
	freed   *freePaths
}

func (made planner) message(desc protoreflect.MessageDescriptor, at string, freed *freePaths) (*plan, error) {
	if p, ok := made[place{desc, freed}]; ok {
		return p, nil
	}
	if desc.ExtensionRanges().Len() > 0 {
		return nil, unbindable(at, fmt.Sprintf("a %s can have extensions", desc.FullName()))
	}
	p := &plan{fields: make([]planField, 0, desc.Fields().Len())}
	made[place{desc, freed}] = p
	for i := range desc.Fields().Len() {
		field := desc.Fields().Get(i)
		below := freed.at(field.Name())
		if below == nil || !below.whole {
			f, err := made.field(field, join(at, field), below)
			if err != nil {
				return nil, err
			}
			p.fields = append(p.fields, f)
			continue
		}
		// What is freed and can be named is listed, so that a token may name it.
		// What cannot be named is left out, and harms nobody.
		if f, err := (planner{}).field(field, join(at, field), nil); err == nil {
			f.free = true
			p.fields = append(p.fields, f)
		}
	}
	slices.SortFunc(p.fields, func(a, b planField) int { return strings.Compare(a.begins(), b.begins()) })
	return p, nil
}

func (made planner) field(desc protoreflect.FieldDescriptor, at string, freed *freePaths) (planField, error) {
	value := valueOf(desc)
	f := planField{desc: desc, name: string(desc.Name()), kind: value.Kind()}
	switch {
	case desc.IsMap():
		f.shape = mapping
	case desc.IsList():
		f.shape = list
	}
	var err error
	switch f.kind {
	case protoreflect.GroupKind:
		err = unbindable(at, "it is a group")
	case protoreflect.EnumKind:
		f.enum = value.Enum().Values()
	case protoreflect.MessageKind:
		f.message, err = made.message(value.Message(), at, freed)
	}
	return f, err
}

func join(at string, field protoreflect.FieldDescriptor) string {
	if at == "" {
		return string(field.Name())
	}
	return at + "." + string(field.Name())
}

func unbindable(at, why string) error {
	if at == "" {
		return fmt.Errorf("no token can name every request: %s", why)
	}
	return fmt.Errorf("no token can name the field %q: %s: its rule must free it", at, why)
}

// measure sets what to make room for: the fields of the request and of the
// messages directly in it.
func (p *plan) measure() {
	for _, f := range p.fields {
		n := 1
		if f.message != nil {
			n += len(f.message.fields)
		}
		if f.free {
			p.free += n
		} else {
			p.bound += n
		}
	}
	const enough = 32
	p.bound, p.free = min(p.bound, enough), min(p.free, enough)
}
