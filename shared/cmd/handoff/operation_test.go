package main

import "testing"

func TestCutField(t *testing.T) {
	for given, want := range map[string][2]string{
		"a=b":                 {"a", "b"},
		"a=":                  {"a", ""},
		"a=b=c":               {"a", "b=c"},
		"lines[0].sku=x":      {"lines[0].sku", "x"},
		`labels["a=b"]=c`:     {`labels["a=b"]`, "c"},
		`labels["a\"=b"]=c=d`: {`labels["a\"=b"]`, "c=d"},
		`labels["a\\"]=c`:     {`labels["a\\"]`, "c"},
		`a="quoted=`:          {"a", `"quoted=`},
	} {
		if path, value, ok := cutField(given); !ok || path != want[0] || value != want[1] {
			t.Errorf("%s: %q %q %t", given, path, value, ok)
		}
	}
	for _, given := range []string{"", "a", `labels["a=b`, `labels["a=b"]`} {
		if path, value, ok := cutField(given); ok {
			t.Errorf("%s: %q %q", given, path, value)
		}
	}
}
