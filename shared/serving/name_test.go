package serving_test

import (
	"testing"

	"github.com/handoff-auth/handoff/shared/serving"
)

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"https://shop.example":         true,
		"https://shop.example/":        true,
		"https://shop.example:8443/eu": true,
		"http://localhost:8441":        true,
		"http://shop.localhost":        true,
		"http://127.0.0.1:8441":        true,
		"http://[::1]":                 true,
		"":                             false,
		"shop":                         false,
		"shop.example":                 false,
		"shop.example:443":             false,
		"/shop":                        false,
		"//shop.example":               false,
		"https:shop.example":           false,
		"https://":                     false,
		"https:///path":                false,
		"https://:443":                 false,
		"HTTPS://shop.example":         false,
		"http://shop.example":          false,
		"http://localhost.example":     false,
		"ftp://shop.example":           false,
		"urn:shop":                     false,
		"https://u:p@shop.example":     false,
		"https://shop.example?x=1":     false,
		"https://shop.example?":        false,
		"https://shop.example#":        false,
		"https://shop.example\n":       false,
		" https://shop.example":        false,
		"https://shop .example":        false,
	} {
		if err := serving.CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
