package rule_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	pb "github.com/handoff-auth/handoff/shared/rule/internal/vectorspb"
)

// vector is one of the frozen vectors of SPEC.md.
type vector struct {
	Name    string
	Method  string
	Request json.RawMessage // its protojson form, where it has one
	Wire    [][]byte        // encodings of it
	Bound   map[string]string
	Free    map[string]string

	Canonical string
	SHA256    string

	Refused string // a reason, in place of all that was made
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("../handoff/testdata/operations.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		About   []string
		Vectors []vector
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	return file.Vectors
}

// requests returns every form of the vector's request, as method takes it.
func (v vector) requests(t *testing.T, method *rule.Method, name protoreflect.FullName) (all []proto.Message) {
	t.Helper()
	for _, wire := range v.Wire {
		request, err := method.Unpack(&anypb.Any{TypeUrl: "type.googleapis.com/" + string(name), Value: wire})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, request)
	}
	if len(all) == 0 {
		t.Fatal("the vector has no request")
	}
	if v.Request != nil {
		request := all[0].ProtoReflect().New().Interface()
		if err := protojson.Unmarshal(v.Request, request); err != nil {
			t.Fatal(err)
		}
		all = append(all, request)
	}
	return all
}

func TestVectors(t *testing.T) {
	vectors := readVectors(t)
	if len(vectors) < 80 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for setName, set := range map[string]*rule.Set{"linked": rule.Linked(), "image": image(t)} {
		for _, v := range vectors {
			t.Run(setName+"/"+v.Name, func(t *testing.T) {
				method := lookup(t, set, v.Method)
				i := slices.IndexFunc(cases(), func(c subject) bool { return c.name == v.Method })
				for _, request := range v.requests(t, method, proto.MessageName(cases()[i].request)) {
					v.check(t, cases()[i], method, request)
				}
			})
		}
	}
}

func (v vector) check(t *testing.T, c subject, method *rule.Method, request proto.Message) {
	t.Helper()
	op, err := method.Operation(request)
	if v.Refused != "" {
		if got := handoff.ReasonOf(err).String(); got != v.Refused {
			t.Errorf("got %v (%v), want %s", op, err, v.Refused)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	examine(t, c, op, request)
	inverse(t, method, op)
	form, err := canonical(op)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(form)
	switch {
	case op.Method != v.Method:
		t.Errorf("method %s", op.Method)
	case !names(op.Bound, v.Bound):
		t.Errorf("bound %v\nwant %v", op.Bound, v.Bound)
	case !names(op.Free, v.Free):
		t.Errorf("free %v\nwant %v", op.Free, v.Free)
	case string(form) != v.Canonical:
		t.Errorf("canonical form %s\nwant %s", form, v.Canonical)
	case base64.RawURLEncoding.EncodeToString(sum[:]) != v.SHA256:
		t.Errorf("digest %x", sum)
	}
}

func names(fields []handoff.Field, want map[string]string) bool {
	for _, f := range fields {
		if value, ok := want[f.Path]; !ok || value != f.Value {
			return false
		}
	}
	return len(fields) == len(want)
}

// The descriptor set beside the vectors and the generated Go are of the same
// .proto files.
func TestImageIsWhatIsLinked(t *testing.T) {
	b, err := os.ReadFile("../handoff/testdata/operations.binpb")
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(b, &set); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, file := range set.File {
		if file.GetPackage() != string(pb.File_handoff_vectors_v1_vectors_proto.Package()) {
			continue
		}
		linked, err := protoregistry.GlobalFiles.FindFileByPath(file.GetName())
		if err != nil {
			t.Fatal(err)
		}
		file.ProtoReflect().SetUnknown(nil) // buf's own remarks
		if want := protodesc.ToFileDescriptorProto(linked); !proto.Equal(file, want) {
			t.Errorf("%s differs from what is linked", file.GetName())
		}
		compared++
	}
	if compared != 3 {
		t.Errorf("compared %d files, want 3", compared)
	}
}
