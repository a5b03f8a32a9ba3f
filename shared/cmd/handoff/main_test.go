package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"handoff": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each program sleeps for a second before it exits
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status":      status,
			"descriptors": writeDescriptors,
			"mode":        mode,
			"kid":         kid,
		},
	})
}

// status N COMMAND… runs a command, which must exit with that status.
func status(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// mode MODE FILE checks a file's mode.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// descriptors FILE writes what buf build would, for the demo's invoices.
func writeDescriptors(ts *testscript.TestScript, _ bool, args []string) {
	b, err := descriptorsOf(server2v1.File_handoff_server2_v1_invoice_service_proto)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// descriptorsOf returns the descriptor set of a file and of what it imports.
func descriptorsOf(file protoreflect.FileDescriptor) ([]byte, error) {
	var set descriptorpb.FileDescriptorSet
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if slices.ContainsFunc(set.File, func(other *descriptorpb.FileDescriptorProto) bool { return other.GetName() == f.Path() }) {
			return
		}
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i))
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(file)
	return proto.Marshal(&set)
}

// invoke runs a command line in this process.
func invoke(t testing.TB, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	p := &program{in: strings.NewReader(stdin), out: &out, err: &err, now: func() time.Time { return now }}
	status = run(args, p)
	return status, out.String(), err.String()
}

var now = time.Unix(1767225600, 0) // 2026-01-01

// messageOf finds the message in the path of a field of an example.
var messageOf = regexp.MustCompile(`--field '?([a-z_.]+)\.[a-z_]+=`)

// Each command shows an example, and says of each flag what it is.
func TestHelp(t *testing.T) {
	parser, err := kong.New(&commands{}, kong.Name("handoff"))
	if err != nil {
		t.Fatal(err)
	}
	commands := parser.Model.Leaves(false)
	if len(commands) != 13 {
		t.Errorf("%d commands", len(commands))
	}
	for _, command := range commands {
		name := command.Path()
		status, out, errOut := invoke(t, "", append(strings.Fields(name), "--help")...)
		if status != exitDone || errOut != "" {
			t.Errorf("%s --help: status %d, %s", name, status, errOut)
		}
		if !strings.Contains(out, "    handoff "+name+" ") {
			t.Errorf("%s --help shows no example", name)
		}
		for _, message := range messageOf.FindAllStringSubmatch(out, -1) {
			if !strings.Contains(out, "--field '"+message[1]+"={}'") {
				t.Errorf("the example of %s names fields of %s and not the message itself", name, message[1])
			}
		}
		for _, flag := range command.Flags {
			if len(flag.Help) < 20 || !strings.HasSuffix(flag.Help, ".") || !strings.Contains(out, "--"+flag.Name) {
				t.Errorf("%s --help does not say what --%s is", name, flag.Name)
			}
			if !flag.Required && !flag.IsBool() && !strings.Contains(flag.Help, "efault") && !strings.Contains(flag.Help, "Repeat") {
				t.Errorf("%s --help does not say what --%s is by default", name, flag.Name)
			}
		}
	}
	if status, out, _ := invoke(t, "", "--help"); status != exitDone || !strings.Contains(out, "verify") {
		t.Errorf("--help: status %d", status)
	}
}

// ofGo finds what a user of the command line does not have.
var ofGo = regexp.MustCompile(`NewID|Params|Config`)

var versionLine = regexp.MustCompile(`^handoff \S+ go1\.\S+\n$`)

// The version is one line, with every command.
// Who signs beside the issuer learns what that means for taking back.
func TestIssueHelpSaysWhatIsNotTakenBack(t *testing.T) {
	if status, out, _ := invoke(t, "", "issue", "--help"); status != exitDone || !strings.Contains(out, "tainting") {
		t.Errorf("status %d, %s", status, out)
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"verify", "--version"}, {"keys", "--version"}} {
		status, out, errOut := invoke(t, "", args...)
		if status != exitDone || errOut != "" || !versionLine.MatchString(out) {
			t.Errorf("%q: status %d, %q%s", args, status, out, errOut)
		}
	}
}

// broken is standard input that panics.
type broken struct{}

func (broken) Read([]byte) (int, error) { panic(broken{}) }

// Exit status 0 means accepted: a panic ends in anything else.
func TestAPanicIsNoYes(t *testing.T) {
	args := newBench(t, handoff.EdDSA).args()
	defer func() {
		if cause := recover(); cause != (broken{}) {
			t.Errorf("panic: %v", cause)
		}
	}()
	status := run(args, &program{in: broken{}, out: io.Discard, err: io.Discard, now: time.Now})
	t.Errorf("status %d", status)
}

// Each mistake is one line on standard error that names the flag, and nothing on
// standard output. None repeats a secret.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	empty := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(in(name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"keygen", "--out", in("key")},
		{"keygen", "--alg", "ES256", "--out", in("other.key")},
		{"public", "--key", in("key"), "--out", in("jwks")},
	} {
		if status, _, errOut := invoke(t, "", args...); status != exitDone {
			t.Fatal(errOut)
		}
	}
	text, err := os.ReadFile(in("key"))
	if err != nil {
		t.Fatal(err)
	}
	write("exposed", string(text), 0o644)
	write("empty", "", 0o600)
	_, secret, _ := strings.Cut(string(text), `"d":"`)
	secret, _, _ = strings.Cut(secret, `"`)
	if len(secret) < 40 {
		t.Fatal("no secret to look for")
	}

	issue := []string{"issue", "--key", in("key"), "--issuer", "i", "--audience", "a", "--subject", "s", "--method", "/a.B/C"}
	verify := []string{"verify", "--keys", in("jwks"), "--issuer", "i", "--audience", "a"}
	status, line, errOut := invoke(t, "", issue...)
	if status != exitDone {
		t.Fatal(errOut)
	}
	token := strings.TrimSuffix(line, "\n")
	if status, _, errOut := invoke(t, token, verify...); status != exitDone { // the control
		t.Fatal(errOut)
	}
	with := func(base []string, more ...string) []string { return append(slices.Clone(base), more...) }

	for _, c := range []struct {
		names string // what the line must name
		args  []string
		stdin string
	}{
		{names: "keygen", args: nil},
		{names: "mint", args: []string{"mint"}},
		{names: `did you mean "verify"`, args: []string{"verifi"}},
		{names: "standard input", args: []string{"verify", token}},
		{names: "standard input", args: with(verify, token)},
		{names: "standard input", args: []string{"inspect", token}},
		{names: "standard input", args: []string{"inspect", "--", token}},
		{names: "unexpected argument", args: []string{token}},
		{names: "unexpected argument", args: []string{"trust", token}},
		{names: "trust inspect", args: []string{"trust", "inspect", "-", token}},
		{names: "keygen", args: []string{"keygen", token}},
		{names: "--verbose", args: with(verify, "--verbose")},
		{names: "--out", args: []string{"keygen"}},
		{names: "--out", args: []string{"keygen", "--out", in("key")}},
		{names: "--out", args: []string{"keygen", "--out", in("missing/key")}},
		{names: "--alg", args: []string{"keygen", "--out", in("new"), "--alg", "none"}},
		{names: "--alg", args: []string{"keygen", "--out", in("new"), "--alg", "HS256"}},
		{names: "--key", args: []string{"public"}},
		{names: "--key", args: []string{"public", "--key", in("missing")}},
		{names: "--key", args: []string{"public", "--key", in("jwks")}},
		{names: "--key", args: []string{"public", "--key", in("exposed")}},
		{names: "--key", args: []string{"public", "--key", in("key"), "--key", in("key")}},
		{names: "--out", args: []string{"public", "--key", in("key"), "--out", in("jwks")}},
		{names: "--format", args: []string{"public", "--key", in("key"), "--format", "der"}},
		{names: "--key", args: issue[:1]},
		{names: "--key", args: with(issue, "--key", in("exposed"))},
		{names: "--issuer", args: with(issue, "--issuer", "")},
		{names: "--issuer", args: with(issue, "--issuer", "two words")},
		{names: "--audience", args: with(issue, "--audience", "")},
		{names: "--subject", args: with(issue, "--subject", "\n")},
		{names: "--session", args: with(issue, "--session", "abc")},
		{names: "--lifetime", args: with(issue, "--lifetime", "301s")},
		{names: "--lifetime", args: with(issue, "--lifetime", "1500ms")},
		{names: "--lifetime", args: with(issue, "--lifetime", "-1s")},
		{names: "--lifetime", args: with(issue, "--lifetime", "60")},
		{names: "--method", args: with(issue, "--method", "a.B/C")},
		{names: "--method", args: with(issue, "--method", "/a.B")},
		{names: "--field", args: with(issue, "--field", "novalue")},
		{names: "--field", args: with(issue, "--field", "=value")},
		{names: "--field", args: with(issue, "--field", "a=1", "--field", "a=1")},
		{names: "argument 13", args: with(issue, "--field", "a=\xff")},
		{names: "--request", args: with(issue, "--request", in("empty"))},
		{names: "--descriptors", args: with(issue, "--descriptors", in("missing"))},
		{names: "--descriptors", args: with(issue, "--descriptors", in("empty"))},
		{names: "--descriptors", args: with(issue, "--descriptors", in("key"))},
		{names: "--field", args: with(issue, "--descriptors", in("empty"), "--field", "a=1")},
		{names: "--keys", args: verify[:1]},
		{names: "--keys", args: with(verify, "--keys", in("key"))},
		{names: "--keys", args: with(verify, "--keys", in("empty"))},
		{names: "--keys", args: with(verify, "--keys", dir)},
		{names: "--issuer", args: with(verify, "--issuer", "")},
		{names: "--audience", args: with(verify, "--audience", "")},
		{names: "--at", args: with(verify, "--at", "yesterday")},
		{names: "--at", args: with(verify, "--at", "-1")},
		{names: "--at", args: with(verify, "--at", "1e9")},
		{names: "--method", args: with(verify, "--method", "C")},
		{names: "--field", args: with(verify, "--field", "a=1")},
		{names: "standard input", args: verify},
		{names: "standard input", args: verify, stdin: "\n"},
		{names: "line 2", args: with(verify, "--ndjson"), stdin: "\n[]"},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: token},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: `{"id":"1"}`},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: `{"token":"1"}`},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: `{"id":1,"token":"1"}`},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: `{"id":"1","token":"1","at":0}`},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: `{"id":"1","id":"2","token":"1"}`},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: `{"id":"1","token":"1"} {}`},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: `[]`},
		{names: "line 1", args: with(verify, "--ndjson"), stdin: `{"id":"1","token":"` + strings.Repeat("x", maxLine) + `"}`},
		{names: "standard input", args: []string{"inspect"}},
		{names: "--at", args: []string{"inspect", "--at", "noon"}, stdin: token},
		{names: "prepare", args: []string{"keys"}},
		{names: "--dir", args: []string{"keys", "list"}},
		{names: "--dir", args: []string{"keys", "list", "--dir", in("missing")}},
		{names: "--dir", args: []string{"keys", "list", "--dir", in("key")}},
		{names: "handoff-server1 keys", args: []string{"keys", "list", "--dir", dir}},
		{names: "--dir", args: []string{"keys", "list", "--dir", empty, "--jwks"}},
		{names: "--dir", args: []string{"keys", "prepare", "--dir", in("missing/keys")}},
		{names: "--alg", args: []string{"keys", "prepare", "--dir", in("keys"), "--alg", "HS256"}},
		{names: "--skew", args: []string{"keys", "prepare", "--dir", in("keys"), "--skew", "5"}},
		{names: "--dir", args: []string{"keys", "activate", "--dir", in("missing")}},
		{names: "--kid", args: []string{"keys", "activate", "--dir", empty}},
		{names: "--kid", args: []string{"keys", "activate", "--dir", empty, "--kid=-"}},
		{names: "--kid", args: []string{"keys", "retire", "--dir", empty}},
		{names: "--kid", args: []string{"keys", "taint", "--dir", empty}},
		{names: "--kid", args: []string{"keys", "taint", "--dir", empty, "--kid=../key"}},
		{names: "--trust-key", args: []string{"trust", "verify", "--issuer", "i"}, stdin: token},
		{names: "--trust-key", args: []string{"trust", "verify", "--issuer", "i", "--trust-key", in("key")}, stdin: token},
		{names: "--trust-key", args: []string{"trust", "verify", "--issuer", "i", "--trust-key", in("jwks"), "--trust-key", in("jwks")}, stdin: token},
		{names: "--issuer", args: []string{"trust", "verify", "--issuer", "two words", "--trust-key", in("jwks")}, stdin: token},
		{names: "--max-staleness", args: []string{"trust", "verify", "--issuer", "i", "--trust-key", in("jwks"), "--max-staleness", "0s"}, stdin: token},
		{names: "--max-staleness", args: []string{"trust", "verify", "--issuer", "i", "--trust-key", in("jwks"), "--max-staleness", "25h"}, stdin: token},
		{names: "--skew", args: []string{"trust", "verify", "--issuer", "i", "--trust-key", in("jwks"), "--skew", "0s"}, stdin: token},
		{names: "--skew", args: []string{"trust", "verify", "--issuer", "i", "--trust-key", in("jwks"), "--skew", "61s"}, stdin: token},
		{names: "--at", args: []string{"trust", "verify", "--issuer", "i", "--trust-key", in("jwks"), "--at", "soon"}, stdin: token},
		{names: "FILE", args: []string{"trust", "verify", "--issuer", "i", "--trust-key", in("jwks"), in("missing")}},
		{names: "FILE", args: []string{"trust", "inspect", dir}},
		{names: "standard input", args: []string{"trust", "inspect"}},
		{names: "--out", args: []string{"devcert"}},
		{names: "--out", args: []string{"devcert", "--out", in("key")}},
		{names: "--days", args: []string{"devcert", "--out", in("certs"), "--days", "0"}},
		{names: "--days", args: []string{"devcert", "--out", in("certs"), "--days", "366"}},
		{names: "--host", args: []string{"devcert", "--out", in("certs"), "--host", "https://localhost"}},
		{names: "--host", args: []string{"devcert", "--out", in("certs"), "--host", ""}},
	} {
		status, out, errOut := invoke(t, c.stdin, c.args...)
		if status != exitUsage {
			t.Errorf("%q: status %d", c.args, status)
		}
		if out != "" {
			t.Errorf("%q: prints %q", c.args, out)
		}
		if strings.Count(errOut, "\n") != 1 || !strings.HasPrefix(errOut, "handoff: ") || !strings.Contains(errOut, c.names) {
			t.Errorf("%q: does not name %s in one line: %q", c.args, c.names, errOut)
		}
		if strings.Contains(errOut, secret) || strings.Contains(errOut, token) || len(errOut) > 500 {
			t.Errorf("%q: repeats what it was given", c.args)
		}
		if ofGo.MatchString(errOut) {
			t.Errorf("%q: %q speaks of Go", c.args, errOut)
		}
	}
}
