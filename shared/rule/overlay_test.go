package rule_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

const getMethod = server2v1.InvoiceService_GetInvoice_FullMethodName // reusable

// An overlay gives a rule to a method that carries none, and tightens the others. The
// set that it is laid over stays as it was.
func TestOverlay(t *testing.T) {
	set, err := rule.Linked().Overlay([]byte(`{"rules": {
		"/handoff.v1.TrustService/GetTrustList": {"reusable": true, "max_lifetime_seconds": 20},
		"` + payMethod + `": {"free": [], "sealed": true, "certificate_bound": true},
		"` + getMethod + `": {"reusable": false, "max_lifetime_seconds": 5}
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]handoff.Rule{
		"/handoff.v1.TrustService/GetTrustList": {Reusable: true, MaxLifetime: 20 * time.Second},
		payMethod:                               {Sealed: true, CertificateBound: true, Actors: true, MaxLifetime: ruleOf(t, rule.Linked(), payMethod).MaxLifetime},
		getMethod:                               {MaxLifetime: 5 * time.Second},
	} {
		if got := ruleOf(t, set, method); got != want {
			t.Errorf("%s: %+v, want %+v", method, got, want)
		}
	}
	op, err := lookup(t, set, payMethod).Operation(pay())
	if err != nil || len(op.Free) != 0 || !op.Sealed || !op.CertificateBound {
		t.Errorf("%+v, %v: the memo is bound now", op, err)
	}
	if op, err := rule.Operation(payMethod, pay()); err != nil || len(op.Free) != 1 {
		t.Errorf("%+v, %v: what is linked has changed", op, err)
	}
	again, err := set.Overlay([]byte(`{"rules": {"` + getMethod + `": {"sealed": true}}}`))
	if err != nil || !ruleOf(t, again, getMethod).Sealed || ruleOf(t, again, getMethod).Reusable || ruleOf(t, set, getMethod).Sealed {
		t.Errorf("one over another: %v", err)
	}
	if _, err := again.Overlay([]byte(`{"rules": {"` + getMethod + `": {"sealed": false}}}`)); err == nil {
		t.Error("an overlay loosens the one below")
	}
}

func ruleOf(t *testing.T, set *rule.Set, method string) handoff.Rule {
	t.Helper()
	demands, ok := lookup(t, set, method).Rule()
	if !ok {
		t.Errorf("%s has no rule", method)
	}
	return demands
}

func TestOverlayRefuses(t *testing.T) {
	entry := func(method, members string) string { return `{"rules": {"` + method + `": {` + members + `}}}` }
	for name, c := range map[string]struct{ text, says string }{
		"nothing":                      {"", "not strict JSON"},
		"no rules":                     {"{}", "rules is missing"},
		"another member":               {`{"rules": {}, "default": {}}`, "does not have"},
		"rules twice":                  {`{"rules": {}, "rules": {}}`, "not strict JSON"},
		"a comment":                    {`{"rules": {}} // all`, "not strict JSON"},
		"a method twice":               {`{"rules": {"` + getMethod + `": {}, "` + getMethod + `": {}}}`, "not strict JSON"},
		"a method that is not there":   {entry("/a.B/C", ""), `"/a.B/C": no such method`},
		"a method without its slash":   {entry(getMethod[1:], ""), "no such method"},
		"a member that is not there":   {entry(getMethod, `"exempt": true`), "exempt: a member"},
		"a member of another case":     {entry(getMethod, `"Sealed": true`), "Sealed: a member"},
		"a member in camel case":       {entry(getMethod, `"certificateBound": true`), "a member"},
		"a switch that is text":        {entry(getMethod, `"sealed": "true"`), "wrong type"},
		"free as text":                 {entry(payMethod, `"free": "memo"`), "wrong type"},
		"a path that is not there":     {entry("/handoff.v1.TrustService/GetTrustList", `"free": ["nothing"]`), "nothing"},
		"the option's duration":        {entry(getMethod, `"max_lifetime": "5s"`), "a member"},
		"no lifetime":                  {entry(getMethod, `"max_lifetime_seconds": 0`), "at least 1"},
		"a lifetime of years":          {entry(getMethod, `"max_lifetime_seconds": 9007199254740991`), "too long"},
		"loosens: another free field":  {entry(payMethod, `"free": ["memo", "amount"]`), "free: it loosens"},
		"loosens: a path above":        {entry(payMethod, `"free": ["amount.currency_code"]`), "free: it loosens"},
		"loosens: spent no more":       {entry(payMethod, `"reusable": true`), "reusable: it loosens"},
		"loosens: what is not to bind": {entry(payMethod, `"free": ["invoice_id"]`), "free: it loosens"},
	} {
		set, err := rule.Linked().Overlay([]byte(c.text))
		if err == nil || set != nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// Each field of the option can be said in an overlay, and for each that can be true it
// is known which way it tightens.
func TestOverlayHasEveryMember(t *testing.T) {
	fields := (&handoffv1.Rule{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		member := map[protoreflect.Kind]string{
			protoreflect.BoolKind: `"` + string(field.Name()) + `": true`, protoreflect.StringKind: `"` + string(field.Name()) + `": []`,
			protoreflect.MessageKind: `"` + string(field.Name()) + `_seconds": 5`,
		}[field.Kind()]
		method := payMethod
		if field.Name() == "actors" {
			method = getMethod // the other says it already
		}
		_, err := rule.Linked().Overlay([]byte(`{"rules": {"` + method + `": {` + member + `}}}`))
		loosens := err != nil && strings.Contains(err.Error(), "it loosens")
		if err != nil && !loosens {
			t.Errorf("%s: %v", member, err)
		}
		switch name := string(field.Name()); name {
		case "free", "max_lifetime", "sealed", "certificate_bound":
			if loosens {
				t.Errorf("%s tightens, and is refused", name)
			}
		default:
			if !loosens {
				t.Errorf("%s loosens, and is accepted", name)
			}
		}
	}
}
