package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

const (
	billing    = "https://billing.example"
	payInvoice = server2v1.InvoiceService_PayInvoice_FullMethodName
	getInvoice = server2v1.InvoiceService_GetInvoice_FullMethodName
	export     = server2v1.InvoiceService_ExportPayments_FullMethodName
)

const good = `{"audiences": {
	"https://billing.example": {
		"target": "dns:///billing.example:443",
		"methods": {
			"` + getInvoice + `": {"roles": ["payer", "reader"]},
			"` + payInvoice + `": {"roles": ["payer"], "max_lifetime_seconds": 30}
		}
	},
	"https://idle.example": {"target": "localhost:1", "methods": {}}
}}`

func TestFind(t *testing.T) {
	p, err := parse(good, rule.Linked(), 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		audience, method string
		roles            []string
		want             error
		lifetime         time.Duration
	}{
		{billing, payInvoice, []string{"payer"}, nil, 30 * time.Second},
		{billing, getInvoice, []string{"auditor", "reader"}, nil, 2 * time.Minute},
		{billing, payInvoice, []string{"reader"}, ErrDenied, 0},
		{billing, payInvoice, []string{"Payer", "payer ", ""}, ErrDenied, 0},
		{billing, payInvoice, nil, ErrDenied, 0},
		{billing, export, []string{"payer"}, ErrDenied, 0}, // not listed, though it exists
		{billing, payInvoice[1:], []string{"payer"}, ErrUnknownMethod, 0},
		{billing, "/handoff.server1.v1.SessionService/SignIn", []string{"payer"}, ErrUnknownMethod, 0},
		{"https://idle.example", payInvoice, []string{"payer"}, ErrDenied, 0}, // another audience's permission
		{"https://billing.example/", payInvoice, []string{"payer"}, ErrUnknownAudience, 0},
		{"", payInvoice, []string{"payer"}, ErrUnknownAudience, 0},
	} {
		got, err := p.Find(c.audience, c.method, c.roles)
		if !errors.Is(err, c.want) || got.MaxLifetime != c.lifetime {
			t.Errorf("%s %s %q: got %v, %v; want %v, %v", c.audience, c.method, c.roles, got.MaxLifetime, err, c.lifetime, c.want)
		}
		if (err == nil) != (got.Method != nil && got.Target == "dns:///billing.example:443") {
			t.Errorf("%s %s %q: got %+v, %v", c.audience, c.method, c.roles, got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	within := func(methods string) string {
		return `{"audiences": {"` + billing + `": {"target": "localhost:1", "methods": {` + methods + `}}}}`
	}
	to := func(target string) string {
		return `{"audiences": {"` + billing + `": {"target": ` + target + `, "methods": {}}}}`
	}
	for name, text := range map[string]string{
		"nothing":                     ``,
		"not an object":               `[]`,
		"no audiences":                `{}`,
		"audiences of another type":   `{"audiences": []}`,
		"audiences null":              `{"audiences": null}`,
		"an unknown member":           `{"audiences": {}, "roles": {}}`,
		"a member of another case":    `{"Audiences": {}}`,
		"two of a name":               `{"audiences": {}, "audiences": {}}`,
		"two of an audience, escaped": `{"audiences": {"a": {"target": "h:1", "methods": {}}, "\u0061": {"target": "h:1", "methods": {}}}}`,
		"something behind":            `{"audiences": {}} {}`,
		"a comment":                   `{"audiences": {}} // all`,
		"an empty audience name":      `{"audiences": {"": {"target": "localhost:1", "methods": {}}}}`,
		"a space in an audience name": `{"audiences": {"a b": {"target": "localhost:1", "methods": {}}}}`,
		"an audience of another type": `{"audiences": {"a": true}}`,
		"no target":                   `{"audiences": {"a": {"methods": {}}}}`,
		"no methods":                  `{"audiences": {"a": {"target": "localhost:1"}}}`,
		"an unknown audience member":  `{"audiences": {"a": {"target": "localhost:1", "methods": {}, "allow": "*"}}}`,
		"an empty target":             to(`""`),
		"a target without a port":     to(`"localhost"`),
		"a target without a host":     to(`":443"`),
		"an https target":             to(`"https://billing.example:443"`),
		"a target with a space":       to(`"a b:443"`),
		"a target of another type":    to(`443`),
		"an unknown method":           within(`"/handoff.server2.v1.InvoiceService/Steal": {"roles": ["a"]}`),
		"a wildcard":                  within(`"/handoff.server2.v1.InvoiceService/*": {"roles": ["a"]}`),
		"a method without its slash":  within(`"` + payInvoice[1:] + `": {"roles": ["a"]}`),
		"a method without a rule":     within(`"/handoff.server1.v1.SessionService/SignIn": {"roles": ["a"]}`),
		"no roles":                    within(`"` + payInvoice + `": {}`),
		"empty roles":                 within(`"` + payInvoice + `": {"roles": []}`),
		"roles of another type":       within(`"` + payInvoice + `": {"roles": "payer"}`),
		"a role of another type":      within(`"` + payInvoice + `": {"roles": [1]}`),
		"an empty role":               within(`"` + payInvoice + `": {"roles": [""]}`),
		"any role":                    within(`"` + payInvoice + `": {"roles": ["*"]}`),
		"a role twice":                within(`"` + payInvoice + `": {"roles": ["a", "a"]}`),
		"an unknown method member":    within(`"` + payInvoice + `": {"roles": ["a"], "fields": []}`),
		"no lifetime at all":          within(`"` + payInvoice + `": {"roles": ["a"], "max_lifetime_seconds": 0}`),
		"a lifetime above the most":   within(`"` + payInvoice + `": {"roles": ["a"], "max_lifetime_seconds": 121}`),
		"an overflowing lifetime":     within(`"` + payInvoice + `": {"roles": ["a"], "max_lifetime_seconds": 9007199254740991}`),
		"a fraction":                  within(`"` + payInvoice + `": {"roles": ["a"], "max_lifetime_seconds": 1.5}`),
		"a lifetime as text":          within(`"` + payInvoice + `": {"roles": ["a"], "max_lifetime_seconds": "30s"}`),
	} {
		if _, err := parse(text, rule.Linked(), 2*time.Minute); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", name, err)
		}
	}
}

// A method's own rule bounds the policy, with descriptors from a file too.
func TestRuleBoundsThePolicy(t *testing.T) {
	set := shortRule(t)
	text := func(seconds string) string {
		return `{"audiences": {"` + billing + `": {"target": "localhost:1", "methods": {"` + payInvoice + `": {"roles": ["a"]` + seconds + `}}}}}`
	}
	p, err := parse(text(""), set, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Find(billing, payInvoice, []string{"a"}); err != nil || got.MaxLifetime != 20*time.Second {
		t.Errorf("got %v, %v; want the rule's 20s", got.MaxLifetime, err)
	}
	if _, err := parse(text(`, "max_lifetime_seconds": 20`), set, time.Minute); err != nil {
		t.Error(err)
	}
	if _, err := parse(text(`, "max_lifetime_seconds": 21`), set, time.Minute); err == nil {
		t.Error("a lifetime above the rule's is accepted")
	}
}

// shortRule returns the demo's methods, as a descriptor set in which PayInvoice
// accepts 20 s.
func shortRule(t *testing.T) *rule.Set {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	var add func(name string)
	seen := map[string]bool{}
	add = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		file, err := protoregistry.GlobalFiles.FindFileByPath(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).Path())
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	add("handoff/server2/v1/invoice_service.proto")
	for _, file := range set.File {
		for _, service := range file.GetService() {
			for _, method := range service.GetMethod() {
				if method.GetName() == "PayInvoice" {
					proto.SetExtension(method.Options, handoffv1.E_Rule, &handoffv1.Rule{MaxLifetime: durationpb.New(20 * time.Second)})
				}
			}
		}
	}
	b, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	methods, err := rule.ReadDescriptorSet(b)
	if err != nil {
		t.Fatal(err)
	}
	return methods
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	if _, err := Load(path, rule.Linked(), time.Minute); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: got %v", err)
	}
	for text, ok := range map[string]bool{good: true, good + strings.Repeat(" ", maxSize): false, "x": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, rule.Linked(), time.Minute)
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: got %v", text, err)
		}
	}
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[os.FileMode]bool{0o644: true, 0o620: false, 0o602: false, 0o666: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, rule.Linked(), time.Minute)
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "chmod go-w "+path) {
			t.Errorf("mode %04o: got %v", mode, err)
		}
	}
}
