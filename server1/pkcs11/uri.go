package pkcs11

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// uri says which key is meant (RFC 7512). What it does not have is not compared.
type uri struct {
	token, serial, manufacturer, model string
	slot                               *uint
	object, id                         string
	module, pin                        string // files
}

// parse reads a URI. No error has a value of it in its text: one may be a PIN.
func parse(text string) (*uri, error) {
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok || !strings.EqualFold(scheme, "pkcs11") {
		return nil, errors.New("not a pkcs11: URI")
	}
	path, query, _ := strings.Cut(rest, "?")
	u, given := &uri{}, map[string]bool{}
	for _, part := range []struct{ text, separator string }{{path, ";"}, {query, "&"}} {
		if part.text == "" {
			continue
		}
		for attribute := range strings.SplitSeq(part.text, part.separator) {
			name, escaped, ok := strings.Cut(attribute, "=")
			value, err := url.PathUnescape(escaped)
			switch {
			case !ok || err != nil || value == "":
				return nil, fmt.Errorf("the URI's attribute %d is not name=value, percent-encoded", len(given)+1)
			case given[name]:
				return nil, fmt.Errorf("the URI has %s twice", shown(name))
			}
			given[name] = true
			if err := u.set(name, value, part.separator == "&"); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case u.object == "" && u.id == "":
		return nil, errors.New("the URI names no key: it needs object or id")
	case u.module == "":
		return nil, errors.New("the URI names no module: it needs module-path, the file of the token's PKCS#11 library")
	case u.pin == "":
		return nil, errors.New("the URI names no PIN: it needs pin-source=file:/PATH")
	}
	return u, nil
}

// set takes one attribute, of the path or of the query.
func (u *uri) set(name, value string, inQuery bool) (err error) {
	texts := map[string]*string{
		"token": &u.token, "serial": &u.serial, "manufacturer": &u.manufacturer, "model": &u.model, "object": &u.object, "id": &u.id,
	}
	if inQuery {
		texts = nil
	}
	switch to := texts[name]; {
	case to != nil:
		*to = value
	case name == "slot-id" && !inQuery:
		id, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return errors.New("the URI's slot-id is not a number")
		}
		slot := uint(id)
		u.slot = &slot
	case name == "type" && !inQuery:
		if value != "private" {
			return errors.New("the URI's type is not private: a private key signs")
		}
	case name == "module-path" && inQuery:
		u.module, err = file(name, value)
	case name == "pin-source" && inQuery:
		u.pin, err = file(name, strings.TrimPrefix(strings.TrimPrefix(value, "file:"), "//"))
	case name == "pin-value":
		return errors.New("the URI has the PIN itself (pin-value), which every user of the machine can see in the list of processes: " +
			"write it into a file that only this program's user can read, name that by pin-source=file:/PATH, and change the PIN")
	default:
		return fmt.Errorf("the URI has %s, which means nothing here: what it may have is token, serial, manufacturer, model, slot-id, object, id and type, "+
			"and after the \"?\" module-path and pin-source", shown(name))
	}
	return err
}

func file(name, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("the URI's %s is not the absolute path of a file", name)
	}
	return path, nil
}

// shown is an attribute's name, unless it may be anything else.
func shown(name string) string {
	for _, c := range name {
		if (c < 'a' || c > 'z') && c != '-' {
			return "an attribute of an unknown name"
		}
	}
	return strconv.Quote(name)
}
