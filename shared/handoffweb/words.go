package handoffweb

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/shared/rule"
)

// Call is what Describe puts into words: before it runs, and once it has.
type Call struct {
	// Method is the full method name.
	Method string
	// Request is what was signed and, once the call has run, what the person filled in.
	Request proto.Message
	// Issuer and Subject name the user.
	Issuer, Subject string
	// Response is the handler's answer; nil before there is one.
	Response proto.Message
	// Err is the gRPC status with which the call was refused; nil if it was not.
	Err error
}

// Words say a call to the person who is to confirm it. Text that is empty is filled
// in from the method's name.
type Words struct {
	// Title says what is done, with what matters most: "Pay invoice INV-42: 12.00 EUR".
	Title string
	// Confirm is on the button: "Pay 12.00 EUR".
	Confirm string
	// Rows are the details. None: every field of the request, which a page has in any
	// case, further down.
	Rows []Row
	// Outcome says what became of it, in a sentence: "INV-42 is paid."
	Outcome string
}

// Row is one detail.
type Row struct{ Name, Value string }

// words returns what the page says of a call.
func (l *Landing) words(c Call) Words {
	var w Words
	if l.config.Describe != nil {
		w = l.config.Describe(c)
	}
	w.Title = cmp.Or(w.Title, sentenceOf(c.Method[strings.LastIndexByte(c.Method, '/')+1:]))
	w.Confirm = cmp.Or(w.Confirm, "Confirm")
	if w.Outcome == "" && c.Err != nil {
		w.Outcome = "This service declined it."
	}
	w.Title, w.Confirm, w.Outcome = visible(w.Title), visible(w.Confirm), visible(w.Outcome)
	rows := make([]Row, len(w.Rows))
	for i, row := range w.Rows {
		rows[i] = Row{visible(row.Name), visible(row.Value)}
	}
	w.Rows = rows
	return w
}

// fieldsOf lists the fields of a request readably.
func fieldsOf(request proto.Message) []Row {
	var rows []Row
	list(request.ProtoReflect(), "", &rows)
	return rows
}

func list(m protoreflect.Message, at string, rows *[]Row) {
	fields, some := m.Descriptor().Fields(), false
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		some = true
		name, v := under(at, nameOf(f)), m.Get(f)
		switch {
		case f.IsList():
			for i := range v.List().Len() {
				listValue(f, v.List().Get(i), name+" "+strconv.Itoa(i+1), rows)
			}
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				listValue(f.MapValue(), v, name+" "+strconv.Quote(k.String()), rows)
				return true
			})
		default:
			listValue(f, v, name, rows)
		}
	}
	if !some && at != "" {
		*rows = append(*rows, Row{visible(at), "(empty)"})
	}
}

func listValue(f protoreflect.FieldDescriptor, v protoreflect.Value, name string, rows *[]Row) {
	if f.Message() != nil {
		list(v.Message(), name, rows)
		return
	}
	*rows = append(*rows, Row{visible(name), visible(textOf(f, v))})
}

func textOf(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.BoolKind:
		if v.Bool() {
			return "yes"
		}
		return "no"
	case protoreflect.EnumKind:
		if value := f.Enum().Values().ByNumber(v.Enum()); value != nil {
			return string(value.Name())
		}
	case protoreflect.BytesKind:
		return fmt.Sprintf("%d bytes: %s", len(v.Bytes()), base64.RawURLEncoding.EncodeToString(v.Bytes()))
	case protoreflect.StringKind:
		if v.String() == "" {
			return "(empty)"
		}
	}
	return v.String()
}

// nameOf puts a field's name into words: "minor_units" becomes "Minor units".
func nameOf(f protoreflect.FieldDescriptor) string {
	name := strings.ReplaceAll(string(f.Name()), "_", " ")
	return strings.ToUpper(name[:1]) + name[1:]
}

func under(at, name string) string {
	if at == "" {
		return name
	}
	return at + " › " + strings.ToLower(name[:1]) + name[1:]
}

// sentenceOf puts a method's name into words: "PayInvoice" becomes "Pay invoice".
func sentenceOf(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) && !unicode.IsUpper(rune(name[i-1])) {
			b.WriteByte(' ')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// blank is a Braille pattern without a dot.
const blank = '\u2800'

// visible returns text in which nothing hides: what has no shape of its own, or
// turns the direction of reading, is written as its code point.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) && !unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) && r != blank {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\u{%X}", r)
		}
	}
	return b.String()
}

// Field is one input of the confirm page. Its name in the form is Path.
type Field struct {
	Path, Label string
	// Kind is "text", "number", "choice" or "yesno".
	Kind string
	// Value is what was filled in before.
	Value string
	// Choices are those of a choice.
	Choices []Choice
}

// Choice is one value of a choice.
type Choice struct {
	Value, Label string
	Chosen       bool
}

// shown is what a person can fill in, with what they filled in before.
func shown(in rule.Input, value string) Field {
	f := Field{Path: in.Path, Label: nameOf(in.Field), Kind: "number", Value: value}
	switch in.Field.Kind() {
	case protoreflect.StringKind:
		f.Kind = "text"
	case protoreflect.BoolKind:
		f.Kind = "yesno"
	case protoreflect.EnumKind:
		f.Kind = "choice"
		values := in.Field.Enum().Values()
		for i := range values.Len() {
			n := strconv.Itoa(int(values.Get(i).Number()))
			f.Choices = append(f.Choices, Choice{Value: n, Label: string(values.Get(i).Name()), Chosen: n == value})
		}
	}
	return f
}
