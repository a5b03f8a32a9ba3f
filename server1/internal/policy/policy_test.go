package policy

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/sealed"

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
		"web": "https://billing.example",
		"methods": {
			"` + getInvoice + `": {"roles": ["payer", "reader"]},
			"` + payInvoice + `": {"roles": ["payer"], "max_lifetime_seconds": 30}
		}
	},
	"https://idle.example": {"target": "localhost:1", "methods": {}}
}}`

func TestFind(t *testing.T) {
	p, err := parse(good, rule.Linked(), Limits{Handoff: 2 * time.Minute})
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
		got, err := p.find(c.audience, c.method, c.roles)
		if !errors.Is(err, c.want) || got.MaxLifetime != c.lifetime {
			t.Errorf("%s %s %q: got %v, %v; want %v, %v", c.audience, c.method, c.roles, got.MaxLifetime, err, c.lifetime, c.want)
		}
		if (err == nil) != (got.Method != nil && got.Target == "dns:///billing.example:443") {
			t.Errorf("%s %s %q: got %+v, %v", c.audience, c.method, c.roles, got, err)
		}
	}
}

func TestPages(t *testing.T) {
	p, err := parse(good, rule.Linked(), Limits{Handoff: 2 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string][]Page{
		payInvoice: {{billing, billing}}, getInvoice: {{billing, billing}}, export: nil, "": nil,
	} {
		if got := p.pages(method); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", method, got, want)
		}
	}
}

// H02, J05: where a browser is sent is a web origin, or the server does not start.
func TestH02WebIsAnOrigin(t *testing.T) {
	for web, ok := range map[string]bool{
		`"https://billing.example"`: true, `"https://billing.localhost:40001"`: true, `""`: false, `"https://billing.example/"`: false,
		`"http://billing.example"`: false, `"//billing.example"`: false, `"javascript:alert(1)"`: false, `null`: false, `1`: false,
		`["https://billing.example"]`: false, `"https://a.example", "web": "https://b.example"`: false,
	} {
		_, err := parse(`{"audiences": {"`+billing+`": {"target": "h:1", "web": `+web+`, "methods": {}}}}`, rule.Linked(), Limits{Handoff: time.Minute})
		if (err == nil) != ok {
			t.Errorf("%s: got %v", web, err)
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
		if _, err := parse(text, rule.Linked(), Limits{Handoff: 2 * time.Minute}); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", name, err)
		}
	}
}

// What is no JSON is called what it is, and where.
func TestLoadSaysWhatIsNoJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	for text, want := range map[string]string{
		"":                              "it is empty",
		" \n":                           "it is empty",
		"{\n\"audiences\": {":           "line 2: audiences: not strict JSON: it ends too soon",
		"{\n":                           "line 2: not strict JSON: it ends too soon",
		"{\"audiences\": {}}\n{}":       "line 2: not strict JSON: there is more after its end",
		"{\"audiences\": {},\n}":        "line 2: not strict JSON: ",
		"{\n// all\n\"audiences\": {}}": "line 2: not strict JSON: ",
		"\ufeff{}":                      "line 1: not strict JSON: ",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, rule.Linked(), Limits{Handoff: time.Minute})
		if err == nil || !strings.Contains(err.Error(), want) || strings.HasSuffix(err.Error(), ": ") || strings.HasSuffix(err.Error(), "JSON") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// A method's own rule bounds the policy, with descriptors from a file too.
func TestRuleBoundsThePolicy(t *testing.T) {
	set := shortRule(t)
	text := func(seconds string) string {
		return `{"audiences": {"` + billing + `": {"target": "localhost:1", "methods": {"` + payInvoice + `": {"roles": ["a"]` + seconds + `}}}}}`
	}
	p, err := parse(text(""), set, Limits{Handoff: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.find(billing, payInvoice, []string{"a"}); err != nil || got.MaxLifetime != 20*time.Second {
		t.Errorf("got %v, %v; want the rule's 20s", got.MaxLifetime, err)
	}
	if _, err := parse(text(`, "max_lifetime_seconds": 20`), set, Limits{Handoff: time.Minute}); err != nil {
		t.Error(err)
	}
	if _, err := parse(text(`, "max_lifetime_seconds": 21`), set, Limits{Handoff: time.Minute}); err == nil {
		t.Error("a lifetime above the rule's is accepted")
	}
}

// shortRule returns the demo's methods, as a descriptor set in which PayInvoice
// accepts 20 s.
func shortRule(t *testing.T) *rule.Set {
	return withRule(t, &handoffv1.Rule{MaxLifetime: durationpb.New(20 * time.Second)})
}

// withRule returns the demo's methods, as a descriptor set in which PayInvoice has
// this rule.
func withRule(t *testing.T, demands *handoffv1.Rule) *rule.Set {
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
					proto.SetExtension(method.Options, handoffv1.E_Rule, demands)
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
	if _, err := Load(path, rule.Linked(), Limits{Handoff: time.Minute}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: got %v", err)
	}
	for text, ok := range map[string]bool{good: true, good + strings.Repeat(" ", maxSize): false, "x": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, rule.Linked(), Limits{Handoff: time.Minute})
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
		_, err := Load(path, rule.Linked(), Limits{Handoff: time.Minute})
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "chmod go-w") {
			t.Errorf("mode %04o: got %v", mode, err)
		}
	}
}

// I12: a changed policy counts within a second, one that is worse replaces nothing,
// and both are told of once.
func TestI12PolicyIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "policy.json")
		write := func(roles string, mode os.FileMode) {
			t.Helper()
			text := `{"audiences": {"https://billing.example": {"target": "127.0.0.1:1", "methods": {"` + payInvoice + `": {"roles": [` + roles + `]}}}}}`
			if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
				t.Fatal(err)
			}
		}
		write(`"payer"`, 0o644)
		p, err := Load(path, rule.Linked(), Limits{Handoff: handoff.MaxLifetime})
		if err != nil {
			t.Fatal(err)
		}
		var told []bool
		p.Observe = func(err error) { told = append(told, err == nil) }
		expect := func(step, role string, news ...bool) {
			t.Helper()
			for range 3 {
				time.Sleep(time.Second)
				for _, name := range []string{"payer", "clerk"} {
					_, err := p.Find("https://billing.example", payInvoice, []string{name})
					if (err == nil) != (name == role) {
						t.Errorf("%s: %s: %v", step, name, err)
					}
				}
			}
			if !slices.Equal(told, news) {
				t.Errorf("%s: told %v, want %v", step, told, news)
			}
			told = nil
		}
		expect("at first", "payer")
		write(`"clerk"`, 0o644)
		expect("changed", "clerk", true)
		write(`"payer`, 0o644)
		expect("no JSON", "clerk", false)
		write(`"payer"`, 0o666)
		expect("written by others", "clerk", false)
		write(`"payer"`, 0o644)
		expect("mended", "payer", true)
		write(`"clerk"`, 0o644)
		p.Look()
		if _, err := p.Find("https://billing.example", payInvoice, []string{"clerk"}); err != nil {
			t.Errorf("looked at: %v", err)
		}
	})
}

// A method that takes only sealed tokens cannot be listed for an audience without a
// key for them; with one, every token for the audience is sealed.
func TestSeal(t *testing.T) {
	key, err := sealed.Generate()
	if err != nil {
		t.Fatal(err)
	}
	set, err := sealed.MarshalKeys(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	with := func(seal string) string {
		return strings.Replace(good, `"web"`, `"seal": `+seal+`, "web"`, 1)
	}
	demanding := withRule(t, &handoffv1.Rule{Sealed: true})
	for _, methods := range []*rule.Set{rule.Linked(), demanding} {
		p, err := parse(with(string(set)), methods, Limits{Handoff: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		found, err := p.find(billing, payInvoice, []string{"payer"})
		if err != nil || found.Seal.ID() != key.Public().ID() {
			t.Errorf("%v, sealed to %q", err, found.Seal.ID())
		}
	}
	for what, text := range map[string]string{
		"no key": good, "no keys": with(`{"keys": []}`), "a name": with(`"billing.jwks"`), "a key that signs": with(`{"keys": [{"kty": "EC"}]}`),
	} {
		if _, err := parse(text, demanding, Limits{Handoff: time.Minute}); err == nil || !strings.Contains(err.Error(), "seal") && !strings.Contains(err.Error(), "PayInvoice") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What is bound to a client's certificate is so by the policy or by the method's rule,
// which the policy cannot loosen. It goes through no page.
func TestCertificateBound(t *testing.T) {
	demanding := withRule(t, &handoffv1.Rule{CertificateBound: true})
	says := func(value string) string {
		return strings.Replace(good, `"max_lifetime_seconds": 30`, `"certificate_bound": `+value, 1)
	}
	for _, c := range []struct {
		text    string
		methods *rule.Set
		bound   bool
	}{
		{good, rule.Linked(), false},
		{says("false"), rule.Linked(), false},
		{says("true"), rule.Linked(), true},
		{good, demanding, true},
		{says("true"), demanding, true},
	} {
		p, err := parse(c.text, c.methods, Limits{Handoff: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		found, err := p.find(billing, payInvoice, []string{"payer"})
		if err != nil || found.CertificateBound != c.bound {
			t.Errorf("%s: bound %t, %v", c.text, found.CertificateBound, err)
		}
		if pages := p.pages(payInvoice); (len(pages) == 0) != c.bound {
			t.Errorf("bound %t: pages %v", c.bound, pages)
		}
		if pages := p.pages(getInvoice); len(pages) != 1 {
			t.Errorf("another method's pages: %v", pages)
		}
		want := map[bool]string{true: payInvoice}[c.bound]
		if got := p.certificateBound(); got != want {
			t.Errorf("%q is bound, want %q", got, want)
		}
	}
	for text, methods := range map[string]*rule.Set{says("false"): demanding, says(`"yes"`): rule.Linked(), says("1"): rule.Linked()} {
		if _, err := parse(text, methods, Limits{Handoff: time.Minute}); err == nil || !strings.Contains(err.Error(), "certificate_bound: ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// I12: a policy that binds tokens to certificates for which nobody is asked is refused,
// also where it comes later.
func TestI12NoCertificates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bound := strings.Replace(good, `"max_lifetime_seconds": 30`, `"certificate_bound": true`, 1)
	write(bound)
	limits := Limits{Handoff: time.Minute}
	if _, err := Load(path, rule.Linked(), limits); !errors.Is(err, ErrNoCertificates) || !strings.Contains(err.Error(), payInvoice) {
		t.Errorf("at first: %v", err)
	}
	limits.Certificates = true
	if _, err := Load(path, rule.Linked(), limits); err != nil {
		t.Errorf("where clients are asked: %v", err)
	}
	write(good)
	limits.Certificates = false
	p, err := Load(path, rule.Linked(), limits)
	if err != nil {
		t.Fatal(err)
	}
	var told error
	p.Observe = func(err error) { told = err }
	write(bound)
	p.Look()
	found, err := p.Find(billing, payInvoice, []string{"payer"})
	if err != nil || found.CertificateBound || !errors.Is(told, ErrNoCertificates) {
		t.Errorf("later: bound %t, %v; told %v", found.CertificateBound, err, told)
	}
}

func withVisits(visits string) string {
	return `{"audiences": {"` + billing + `": {"target": "localhost:1", "web": "` + billing + `", "methods": {}, "visits": ` + visits + `}}}`
}

func TestFindVisit(t *testing.T) {
	limits := Limits{Handoff: time.Minute, Visit: time.Hour}
	p, err := parse(withVisits(`{"roles": ["payer", "reader"], "methods": ["`+getInvoice+`", "`+export+`"], "max_lifetime_seconds": 900}`), rule.Linked(), limits)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		audience       string
		methods, roles []string
		want           error
		got            []string
	}{
		"all":              {billing, nil, []string{"payer"}, nil, []string{getInvoice, export}},
		"one":              {billing, []string{export}, []string{"x", "reader"}, nil, []string{export}},
		"a write":          {billing, []string{export, payInvoice}, []string{"payer"}, ErrUnknownMethod, nil},
		"no role":          {billing, nil, []string{"Payer"}, ErrDenied, nil},
		"another audience": {"https://other.example", nil, []string{"payer"}, ErrUnknownAudience, nil},
	} {
		got, err := p.findVisit(c.audience, c.methods, c.roles)
		if !errors.Is(err, c.want) || !slices.Equal(got.Methods, c.got) || err == nil && (got.MaxLifetime != 15*time.Minute || got.Target != "localhost:1") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	without, err := parse(good, rule.Linked(), limits)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := without.findVisit(billing, nil, []string{"payer"}); !errors.Is(err, ErrUnknownAudience) {
		t.Errorf("an audience that takes no visits: %v", err)
	}
}

func TestVisitsRefused(t *testing.T) {
	const one = `"methods": ["` + getInvoice + `"]`
	for name, visits := range map[string]string{
		"null":                  `null`,
		"nothing":               `{}`,
		"no roles":              `{` + one + `}`,
		"empty roles":           `{"roles": [], ` + one + `}`,
		"a role twice":          `{"roles": ["a", "a"], ` + one + `}`,
		"no methods":            `{"roles": ["a"]}`,
		"empty methods":         `{"roles": ["a"], "methods": []}`,
		"a method twice":        `{"roles": ["a"], "methods": ["` + getInvoice + `", "` + getInvoice + `"]}`,
		"an unknown method":     `{"roles": ["a"], "methods": ["/handoff.server2.v1.InvoiceService/Steal"]}`,
		"a write":               `{"roles": ["a"], "methods": ["` + payInvoice + `"]}`,
		"a method without rule": `{"roles": ["a"], "methods": ["/handoff.server1.v1.SessionService/SignIn"]}`,
		"no time":               `{"roles": ["a"], ` + one + `, "max_lifetime_seconds": 0}`,
		"more than an hour":     `{"roles": ["a"], ` + one + `, "max_lifetime_seconds": 3601}`,
		"an unknown member":     `{"roles": ["a"], ` + one + `, "live": true}`,
	} {
		if _, err := parse(withVisits(visits), rule.Linked(), Limits{Handoff: time.Minute, Visit: time.Hour}); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	bound := strings.Replace(withVisits(`{"roles": ["a"], `+one+`}`), `"methods": {}`,
		`"methods": {"`+getInvoice+`": {"roles": ["a"], "certificate_bound": true}}`, 1)
	if _, err := parse(bound, rule.Linked(), Limits{Handoff: time.Minute, Visit: time.Hour}); err == nil || !strings.Contains(err.Error(), "certificate_bound") {
		t.Errorf("a method whose tokens are to be bound: %v", err)
	}
	_, err := parse(withVisits(`{"roles": ["a"], `+one+`}`), rule.Linked(), Limits{Handoff: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "--max-visit-lifetime") {
		t.Errorf("a server without visits: %v", err)
	}
}

func TestVisitPages(t *testing.T) {
	d, err := parse(withVisits(`{"roles": ["a"], "methods": ["`+getInvoice+`"]}`), rule.Linked(), Limits{Handoff: time.Minute, Visit: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	visited := func(a audience) bool { return len(a.visits.methods) > 0 }
	if got := d.pagesOf(visited); !slices.Equal(got, []Page{{billing, billing}}) {
		t.Errorf("%v", got)
	}
	if d, err = parse(good, rule.Linked(), Limits{Handoff: time.Minute}); err != nil || d.pagesOf(visited) != nil {
		t.Errorf("%v, %v", d.pagesOf(visited), err)
	}
}
