package rule

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// The bounds of a request that a token can name. SPEC.md has them.
const (
	maxDepth  = 32      // messages below the request
	maxFields = 16384   // fields that are bound
	maxPath   = 1024    // bytes of a path
	maxBytes  = 1 << 20 // of the paths and values of all bound fields
)

// A token is at most 4096 bytes long. So it names fewer than maxFree fields, and
// no value longer than maxFreeValue: beyond them, free fields need not be listed,
// nor once their paths and values have taken maxBytes.
const (
	maxFree      = 512
	maxFreeValue = 4096
)

const tooMuch = "there is too much in all"

// emptyMessage is the value of a populated message: its fields follow.
const emptyMessage = "{}"

// flatten returns the populated fields of a request, in canonical order except for
// map keys with characters from U+10000 on, which the core puts in their place.
func flatten(p *plan, request protoreflect.Message) (bound, free []handoff.Field, err error) {
	room := make([]handoff.Field, p.bound+p.free) // of both lists; what is longer gets room of its own
	w := walk{
		bound: fields{list: room[:0:p.bound], left: maxFields, longest: maxBytes, room: maxBytes},
		free:  fields{left: maxFree, longest: maxFreeValue, room: maxBytes},
	}
	if p.free > 0 {
		w.free.list = room[p.bound:p.bound]
	}
	if err := w.message(p, request, "", 0, &w.bound); err != nil {
		return nil, nil, err
	}
	return w.bound.list, w.free.list, nil
}

// walk is one pass over a request.
type walk struct {
	bound, free fields
	// text is the newest piece of the paths and values that are made. Strings into
	// it, and into those before it, stay valid.
	text strings.Builder
	made int // bytes of all pieces, about
}

// fields is what was found, and how much more may be.
type fields struct {
	list    []handoff.Field
	left    int
	longest int // bytes of a value
	room    int // bytes of paths and values; none below 0
}

func (to *fields) add(path, value string) error {
	switch {
	case to.left == 0:
		return refuse(path, "there are too many fields")
	case len(path) > maxPath:
		return refuse(path[:maxPath], "the path is too long")
	case len(path)+len(value) > to.room:
		return refuse(path, tooMuch)
	}
	to.left--
	to.room -= len(path) + len(value)
	to.list = append(to.list, handoff.Field{Path: path, Value: value})
	return nil
}

// message adds the fields of m, which stands at a path.
func (w *walk) message(p *plan, m protoreflect.Message, at string, depth int, to *fields) error {
	if depth > maxDepth {
		return refuse(at, "it is nested too deep")
	}
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		number, _, _ := protowire.ConsumeField(unknown)
		return refuse(at, fmt.Sprintf("it has an unknown field, number %d", number))
	}
	for i := range p.fields {
		f := &p.fields[i]
		if !m.Has(f.desc) {
			continue
		}
		if f.free {
			w.freed(f, m.Get(f.desc), at, depth)
		} else if err := w.field(f, m.Get(f.desc), w.member(at, f.name), depth, to); err != nil {
			return err
		}
	}
	return nil
}

// freed lists a field of the message at a path that the rule frees, with
// everything below it. One that no token can name is left out whole: nothing about
// it can be refused.
func (w *walk) freed(f *planField, v protoreflect.Value, at string, depth int) {
	if w.free.left == 0 || w.free.room <= 0 {
		return
	}
	before, made := len(w.free.list), w.made
	if w.field(f, v, w.member(at, f.name), depth, &w.free) != nil {
		w.free.list = w.free.list[:before]
		w.free.room -= w.made - made // for nothing, but it has been made
	}
}

func (w *walk) field(f *planField, v protoreflect.Value, path string, depth int, to *fields) error {
	switch f.shape {
	case list:
		return w.elements(f, v.List(), path, depth, to)
	case mapping:
		return w.entries(f, v.Map(), path, depth, to)
	}
	return w.value(f, v, path, depth, to)
}

func (w *walk) elements(f *planField, l protoreflect.List, at string, depth int, to *fields) error {
	if l.Len() > to.left {
		return refuse(at, "there are too many fields")
	}
	for i, left := 0, l.Len(); left > 0; i, left = after(i, l.Len()), left-1 {
		if err := w.value(f, l.Get(i), w.element(at, i), depth, to); err != nil {
			return err
		}
	}
	return nil
}

// after returns the index that follows i in the order of n indices' paths, in
// which "[10]" stands before "[1]": 0, 10, 11, 1, 2. Each index comes after those
// that it begins.
func after(i, n int) int {
	if i > 0 && (i%10 == 9 || i == n-1) {
		return i / 10
	}
	for i++; i*10 < n; {
		i *= 10
	}
	return i
}

type entry struct {
	key   protoreflect.MapKey
	value protoreflect.Value
	path  string
}

func (w *walk) entries(f *planField, m protoreflect.Map, at string, depth int, to *fields) error {
	if m.Len() > to.left {
		return refuse(at, "there are too many fields")
	}
	entries := entriesOf(m)
	room := to.room // before any of them is added, all paths are made
	for i := range entries {
		key := entries[i].key.String()
		if !utf8.ValidString(key) {
			return refuse(at, "a key is not UTF-8")
		}
		if len(at)+len(key) > maxPath {
			return refuse(at, "the path of a key is too long")
		}
		entries[i].path = w.entry(at, key)
		if room -= len(entries[i].path); room < 0 {
			return refuse(at, tooMuch)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	for _, e := range entries {
		if err := w.value(f, e.value, e.path, depth, to); err != nil {
			return err
		}
	}
	return nil
}

func entriesOf(m protoreflect.Map) []entry {
	entries := make([]entry, 0, m.Len())
	m.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		entries = append(entries, entry{key: key, value: value})
		return true
	})
	return entries
}

// value adds one value and, if it is a message, what is in it.
func (w *walk) value(f *planField, v protoreflect.Value, path string, depth int, to *fields) error {
	if f.message != nil {
		if err := to.add(path, emptyMessage); err != nil {
			return err
		}
		return w.message(f.message, v.Message(), path, depth+1, to)
	}
	text, fault := w.scalar(f, v, min(to.longest, to.room))
	if fault != "" {
		return refuse(path, fault)
	}
	return to.add(path, text)
}

func refuse(path, why string) error {
	detail := "the request: " + why
	if path != "" {
		detail = fmt.Sprintf("%q: %s", path, why)
	}
	return &handoff.Refusal{Reason: handoff.ReasonRequestUnbindable, Check: "operation.bind", Detail: detail}
}
