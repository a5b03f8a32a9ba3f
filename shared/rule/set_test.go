package rule_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// schema is a service with one method, /t.S/Call, on the message Request. Its
// parts are in protobuf's text format.
type schema struct {
	rule    string // the option's value; empty: none
	method  string // more of the method
	request string // fields of Request
	files   string // more of the file
}

func (s schema) file(t *testing.T) *descriptorpb.FileDescriptorProto {
	t.Helper()
	option := ""
	if s.rule != "" {
		option = `options { [handoff.v1.rule] { ` + strings.TrimSpace(s.rule) + ` } }`
	}
	text := `name: "t.proto" package: "t" dependency: "handoff/v1/rule.proto"
		service { name: "S" method { name: "Call" input_type: ".t.Request" output_type: ".t.Request" ` + option + s.method + ` } }
		message_type { name: "Request" ` + s.request + ` }
		message_type { name: "Extendable" extension_range { start: 100 end: 200 } }
		message_type { name: "Inner"
			field { name: "text" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
			field { name: "next" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".t.Inner" }
			field { name: "extendable" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".t.Extendable" } }
		message_type { name: "Holder" nested_type { name: "Group" field { name: "id" number: 1 label: LABEL_OPTIONAL type: TYPE_INT32 } }
			field { name: "group" number: 1 label: LABEL_OPTIONAL type: TYPE_GROUP type_name: ".t.Holder.Group" }
			field { name: "self" number: 2 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".t.Holder" } }
		` + s.files
	var file descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	return &file
}

// with returns the serialized descriptor set of file and all that it imports.
func with(t *testing.T, files ...*descriptorpb.FileDescriptorProto) []byte {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto),
		protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto),
		protodesc.ToFileDescriptorProto(handoffv1.File_handoff_v1_rule_proto),
	}}
	set.File = append(set.File, files...)
	return marshal(t, set)
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s schema) read(t *testing.T) *rule.Set {
	t.Helper()
	set, err := rule.ReadDescriptorSet(with(t, s.file(t)))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const (
	text   = `field { name: "text" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }`
	inner  = `field { name: "inner" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".t.Inner" }`
	holder = `field { name: "holder" number: 3 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".t.Holder" }`
	second = `field { name: "other" number: 5 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".t.Holder" }`
	group  = `nested_type { name: "Group" field { name: "id" number: 1 label: LABEL_OPTIONAL type: TYPE_INT32 } }
		field { name: "group" number: 4 label: LABEL_OPTIONAL type: TYPE_GROUP type_name: ".t.Request.Group" }`
)

// What is wrong with a rule is found before any request, in an error that names
// the method and the path.
func TestMethodRefusesTheRule(t *testing.T) {
	for name, c := range map[string]struct {
		schema schema
		want   string
	}{
		"client streaming":        {schema{rule: " ", method: `client_streaming: true`}, "client-streaming"},
		"bidirectional":           {schema{rule: " ", method: `client_streaming: true server_streaming: true`}, "client-streaming"},
		"no time":                 {schema{rule: `max_lifetime {}`}, "max_lifetime"},
		"negative time":           {schema{rule: `max_lifetime { seconds: -30 }`}, "max_lifetime"},
		"part of a second":        {schema{rule: `max_lifetime { seconds: 1 nanos: 1 }`}, "max_lifetime"},
		"under a second":          {schema{rule: `max_lifetime { nanos: 999999999 }`}, "max_lifetime"},
		"time of mixed sign":      {schema{rule: `max_lifetime { seconds: 2 nanos: -1 }`}, "max_lifetime"},
		"time without end":        {schema{rule: `max_lifetime { seconds: 315576000001 }`}, "max_lifetime"},
		"free nothing":            {schema{rule: `free: ""`, request: text}, `""`},
		"free a stranger":         {schema{rule: `free: "txet"`, request: text}, `"txet"`},
		"free in another case":    {schema{rule: `free: "Text"`, request: text}, `"Text"`},
		"free below a scalar":     {schema{rule: `free: "text.x"`, request: text}, `"text.x"`},
		"free below a stranger":   {schema{rule: `free: "inner.x.text"`, request: inner}, `"inner.x.text"`},
		"free with a dot behind":  {schema{rule: `free: "inner."`, request: inner}, `"inner."`},
		"free with a dot before":  {schema{rule: `free: ".text"`, request: text}, `".text"`},
		"free an element":         {schema{rule: `free: "holder[0]"`, request: holder}, `"holder[0]"`},
		"free twice":              {schema{rule: `free: "text" free: "text"`, request: text}, `"text"`},
		"free below what is free": {schema{rule: `free: "inner" free: "inner.text"`, request: inner}, `"inner.text"`},
		"free above what is free": {schema{rule: `free: "inner.text" free: "inner"`, request: inner}, `"inner"`},
		"a group":                 {schema{rule: " ", request: group}, `"group"`},
		"a group below":           {schema{rule: " ", request: holder}, `"holder.group"`},
		"one of two holders":      {schema{rule: `free: "holder"`, request: holder + second}, `"other.group"`},
		"a group below a group":   {schema{rule: `free: "group.id"`, request: group}, `"group"`},
		"a group in a recursion":  {schema{rule: `free: "holder.group"`, request: holder}, `"holder.self.group"`},
		"extensions":              {schema{rule: " ", request: `extension_range { start: 100 end: 200 }`}, "t.Request"},
		"extensions below":        {schema{rule: " ", request: inner}, `"inner.extendable"`},
		"extensions in recursion": {schema{rule: `free: "inner.extendable"`, request: inner}, `"inner.next.extendable"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.schema.read(t).Method("/t.S/Call")
			if err == nil || errors.Is(err, rule.ErrUnknownMethod) {
				t.Fatalf("got %v, want what is wrong with the rule", err)
			}
			for _, want := range []string{"/t.S/Call", c.want} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %s", err, want)
				}
			}
		})
	}
}

// The controls: the same schemas, with what they lack.
func TestMethodAcceptsTheRule(t *testing.T) {
	for name, c := range map[string]schema{
		"server streaming":        {rule: " ", method: `server_streaming: true`},
		"a second":                {rule: `max_lifetime { seconds: 1 }`},
		"an age":                  {rule: `max_lifetime { seconds: 315576000000 }`},
		"a field":                 {rule: `free: "text"`, request: text},
		"a field of a message":    {rule: `free: "inner.text" free: "inner.next" free: "inner.extendable"`, request: inner},
		"a group":                 {rule: `free: "group"`, request: group},
		"a group in a list":       {rule: `free: "holder.group" free: "holder.self"`, request: holder},
		"extensions":              {rule: `free: "inner"`, request: inner},
		"all":                     {rule: `free: "text" free: "inner" free: "holder" free: "group"`, request: text + inner + holder + group},
		"the same below another":  {rule: `free: "inner.next.text" free: "inner.text" free: "inner.extendable" free: "inner.next.next" free: "inner.next.extendable"`, request: inner},
		"no rule, what cannot be": {method: `client_streaming: true`, request: holder + group},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := c.read(t).Method("/t.S/Call"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRule(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		want   handoff.Rule
		ok     bool
	}{
		"none":   {"/handoff.vectors.v1.VectorService/Open", handoff.Rule{}, false},
		"zero":   {"/handoff.vectors.v1.VectorService/Strict", handoff.Rule{}, true},
		"loose":  {"/handoff.vectors.v1.VectorService/Loose", handoff.Rule{Reusable: true, MaxLifetime: 30 * time.Second}, true},
		"stream": {"/handoff.vectors.v1.VectorService/Watch", handoff.Rule{Reusable: true}, true},
	} {
		for _, set := range []*rule.Set{rule.Linked(), image(t)} {
			method := lookup(t, set, c.method)
			if got, ok := method.Rule(); got != c.want || ok != c.ok || method.Name() != c.method {
				t.Errorf("%s: %s %v, %v", name, method.Name(), got, ok)
			}
		}
	}
}

// A rule that says more than this version knows may demand more: it is refused.
func TestUnknownRule(t *testing.T) {
	for name, spoil := range map[string]func(*handoffv1.Rule){
		"rule":         func(r *handoffv1.Rule) { r.ProtoReflect().SetUnknown([]byte{0x78, 1}) },
		"max_lifetime": func(r *handoffv1.Rule) { r.MaxLifetime.ProtoReflect().SetUnknown([]byte{0x78, 1}) },
	} {
		file := schema{rule: " ", request: text}.file(t)
		option := &handoffv1.Rule{MaxLifetime: durationpb.New(time.Second)}
		spoil(option)
		options := file.Service[0].Method[0].Options
		proto.SetExtension(options, handoffv1.E_Rule, option)
		set, err := rule.ReadDescriptorSet(with(t, file))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Method("/t.S/Call"); err == nil || errors.Is(err, rule.ErrUnknownMethod) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

func TestReadDescriptorSetRefuses(t *testing.T) {
	file := schema{rule: " ", request: text}.file(t)
	foreign := &descriptorpb.FileDescriptorProto{}
	if err := prototext.Unmarshal([]byte(`name: "other.proto" package: "other" dependency: "google/protobuf/descriptor.proto"
		extension { name: "rule" number: 50423 label: LABEL_OPTIONAL type: TYPE_STRING extendee: ".google.protobuf.MethodOptions" }`), foreign); err != nil {
		t.Fatal(err)
	}
	alone := marshal(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}})
	rename := proto.CloneOf(file)
	rename.MessageType[0].Field[0].TypeName = proto.String(".t.Missing")
	rename.MessageType[0].Field[0].Type = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
	for name, c := range map[string]struct {
		set  []byte
		want string
	}{
		"nothing":           {nil, "no files"},
		"something else":    {[]byte("syntax = \"proto3\";"), "FileDescriptorSet"},
		"cut off":           {with(t, file)[:1000], "FileDescriptorSet"},
		"lacks its imports": {alone, `"handoff/v1/rule.proto"`},
		"lacks a type":      {with(t, rename), "t.Missing"},
		"twice":             {with(t, file, file), "t.proto"},
		"another's extension": {marshal(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
			protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto), foreign,
		}}), "other.rule"},
	} {
		if _, err := rule.ReadDescriptorSet(c.set); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error that names %s", name, err, c.want)
		}
	}
	if _, err := rule.ReadDescriptorSet(with(t, file)); err != nil {
		t.Errorf("the control: %v", err)
	}
}

func TestUnknownMethod(t *testing.T) {
	known := "/handoff.vectors.v1.VectorService/Strict"
	service := strings.TrimSuffix(known, "/Strict")
	for _, set := range []*rule.Set{rule.Linked(), image(t)} {
		lookup(t, set, known)
		for _, name := range []string{
			"", "/", "//", "Strict", known[1:], "/" + known, known + "/", known + " ", service, service + "/", service + "/strict",
			service + "/Strict/Strict", "/handoff.vectors.v1.Request/memo", "/handoff.vectors.v1/VectorService",
			"/handoff.vectors.v1.VectorService.Strict/", strings.ToUpper(known),
		} {
			if _, err := set.Method(name); !errors.Is(err, rule.ErrUnknownMethod) {
				t.Errorf("%q: got %v, want ErrUnknownMethod", name, err)
			}
		}
	}
}

// A set's methods work from many goroutines.
func TestSetIsConcurrent(t *testing.T) {
	set := image(t)
	done := make(chan error)
	const n = 8
	for range n {
		go func() {
			method, err := set.Method("/handoff.vectors.v1.VectorService/Strict")
			if err == nil {
				request, _ := method.Unpack(packed("handoff.vectors.v1.Request", []byte("\x0a\x01m")))
				_, err = method.Operation(request)
			}
			done <- err
		}()
	}
	var errs []error
	for range n {
		errs = append(errs, <-done)
	}
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		t.Error(errs[i])
	}
}
