package main

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/handoff-auth/handoff/shared/handoff"
)

var methodName = regexp.MustCompile(`^/[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*/[A-Za-z_][A-Za-z0-9_]*$`)

// parseOperation makes an operation of --method and --field.
func parseOperation(method string, fields []string) (handoff.Operation, error) {
	op := handoff.Operation{Method: method}
	if !methodName.MatchString(method) {
		return op, errors.New("--method: not a full method name such as /billing.v1.Billing/Pay")
	}
	seen := map[string]bool{}
	for _, f := range fields {
		path, value, ok := cutField(f)
		switch {
		case !ok || path == "":
			return op, fmt.Errorf("--field: %q is not path=value", f)
		case seen[path]:
			return op, fmt.Errorf("--field: %q is given twice", path)
		}
		seen[path] = true
		op.Bound = append(op.Bound, handoff.Field{Path: path, Value: value})
	}
	return op, nil
}

// cutField splits at the first equals sign that is not in a map key, which stands
// in the path as a JSON string: labels["a=b"]=c.
func cutField(s string) (path, value string, ok bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '=' && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}
