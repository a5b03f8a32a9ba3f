package pkcs11

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	u, err := parse("pkcs11:token=the%20shop;serial=12;slot-id=7;object=signing;id=%01%FF;type=private?module-path=/usr/lib/x.so&pin-source=file:/etc/pin")
	if err != nil {
		t.Fatal(err)
	}
	if u.token != "the shop" || u.serial != "12" || *u.slot != 7 || u.object != "signing" || u.id != "\x01\xff" || u.module != "/usr/lib/x.so" || u.pin != "/etc/pin" {
		t.Errorf("%+v", u)
	}
	if _, err := parse("PKCS11:id=%01?module-path=/x.so&pin-source=/etc/pin"); err != nil { // RFC 3986, section 3.1
		t.Error(err)
	}
	for _, source := range []string{"/etc/pin", "file:/etc/pin", "file:///etc/pin"} {
		if u, err := parse("pkcs11:id=%01?module-path=/x.so&pin-source=" + source); err != nil || u.pin != "/etc/pin" {
			t.Errorf("%s: %v, %v", source, u, err)
		}
	}
}

// What is refused is named, and no value is told: one may be a PIN.
func TestParseRefuses(t *testing.T) {
	const where = "?module-path=/x.so&pin-source=file:/pin"
	for text, names := range map[string]string{
		"file:/x":                                                        "pkcs11:",
		"pkcs11:" + where:                                                "object or id",
		"pkcs11:object=a?pin-source=file:/pin":                           "module-path",
		"pkcs11:object=a?module-path=/x.so":                              "pin-source=file:/PATH",
		"pkcs11:object=a" + where + "&pin-value=s3cret":                  "pin-source=file:/PATH",
		"pkcs11:object=a?pin-value=s3cret":                               "list of processes",
		"pkcs11:object=a;pin-value=s3cret":                               "list of processes",
		"pkcs11:object=a;object=s3cret" + where:                          `"object" twice`,
		"pkcs11:object=a;s3cret" + where:                                 "attribute 2",
		"pkcs11:object=a;id=%s3cret" + where:                             "attribute 2",
		"pkcs11:object=a;id=" + where:                                    "attribute 2",
		"pkcs11:object=a;pin-source=/s3cret?module-path=/x.so":           `"pin-source"`,
		"pkcs11:object=a?token=s3cret&module-path=/x.so":                 `"token"`,
		"pkcs11:object=a;s3cret=1" + where:                               "unknown name",
		"pkcs11:object=a;type=s3cret" + where:                            "private",
		"pkcs11:object=a;slot-id=s3cret" + where:                         "slot-id",
		"pkcs11:object=a?module-path=s3cret&pin-source=/pin":             "module-path",
		"pkcs11:object=a?module-path=/x.so&pin-source=|s3cret":           "pin-source",
		"pkcs11:object=a?module-path=/x.so&pin-source=file:s3cret":       "pin-source",
		"pkcs11:object=a?module-path=/x.so&pin-source=file://s3cret/pin": "pin-source",
		"pkcs11:object=a?module-name=s3cret&pin-source=/pin":             `"module-name"`,
	} {
		u, err := parse(text)
		if err == nil || u != nil || !strings.Contains(err.Error(), names) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", text, err, names)
		}
	}
}
