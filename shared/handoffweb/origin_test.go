package handoffweb_test

import (
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoffweb"
)

// H02, J05: an origin has one spelling, the one in which browsers send it. Nobody could
// arrive from any other, and a browser would be sent elsewhere.
func TestH02Origins(t *testing.T) {
	for _, web := range []string{
		"https://billing.example", "https://billing.example:8444", "https://billing.localhost:40001", "https://localhost:1",
		"https://127.0.0.1:8444", "https://xn--mnchen-3ya.example",
	} {
		if err := handoffweb.CheckOrigin(web); err != nil {
			t.Errorf("%s: %v", web, err)
		}
	}
	for _, web := range []string{
		"", "billing.example", "//billing.example", "http://billing.example", "HTTPS://billing.example", "https:billing.example",
		"https:/billing.example", "https://", "https://:8444", "https://billing.example/", "https://billing.example/pay",
		"https://billing.example?", "https://billing.example?to=x", "https://billing.example#", "https://billing.example#x",
		"https://shop@billing.example", "https://shop:x@billing.example", "https://@billing.example", "https://billing.example:",
		"https://billing.example:0", "https://billing.example:443", "https://billing.example:08444", "https://billing.example:65536",
		"https://billing.example:http", "https://Billing.example", "https://billing.example.", "https://billing..example",
		"https://-billing.example", "https://*.example", "https://münchen.example", "https://billing.example\\@evil.example",
		"https://billing.example%2eevil.example", "https://billing.example ", " https://billing.example", "https://billing.example;evil",
		"https://127.1", "https://0x7f000001", "https://2130706433", "https://127.0.0.01", "https://[::1]:8444", "https://[::1%25lo]:8444", "https://[0::1]", "https://::1",
		"javascript:alert(1)", "data:text/html,x", "https://" + strings.Repeat("a.", 127) + "example",
	} {
		if err := handoffweb.CheckOrigin(web); err == nil || !strings.HasPrefix(err.Error(), "must ") {
			t.Errorf("%q: got %v", web, err)
		}
	}
}
