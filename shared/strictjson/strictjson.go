// Package strictjson reads a JSON document whose members are all known.
//
// The formats of this project (claims, headers, trust lists, policies) are
// closed schemas: what they do not specify is refused. jsontext does the JSON:
// it refuses duplicate names at every depth, however they are escaped, invalid
// UTF-8 and lone surrogates (RFC 8259, RFC 7493). This package adds the reading
// of a value as exactly the kind that the schema has, without an intermediate
// tree, and the refusal of anything after the document.
//
// An error never contains a part of the document: it may be an attacker's.
package strictjson

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Errors of a document. Each is fixed text.
var (
	// ErrSyntax means that the document is not one well-formed JSON value with
	// unique names in valid UTF-8.
	ErrSyntax = errors.New("not strict JSON")
	// ErrType means that a value is of another kind than the schema has there.
	ErrType = errors.New("a value has the wrong type")
	// ErrRange means that a number is not a whole number from 0 to 2^53-1 in plain
	// decimal digits (RFC 7493 section 2.2).
	ErrRange = errors.New("a number is not a whole number in range")
)

// A Reader reads the values of one document in order. It is valid only during
// the call to Read that made it.
type Reader struct {
	text    string
	escapes bool // the text has a backslash
	dec     jsontext.Decoder
	buf     bytes.Buffer
}

var readers = sync.Pool{New: func() any { return new(Reader) }}

// Read reads text as one document: document must read exactly its one value.
// The error is document's own, or ErrSyntax.
func Read(text string, document func(*Reader) error) error {
	r := readers.Get().(*Reader)
	defer readers.Put(r)
	r.text, r.escapes = text, strings.IndexByte(text, '\\') >= 0
	r.buf.Reset()
	r.buf.WriteString(text)
	r.dec.Reset(&r.buf)
	if err := document(r); err != nil {
		return err
	}
	if _, err := r.dec.ReadToken(); err != io.EOF {
		return ErrSyntax
	}
	return nil
}

// Object reads an object. For each member it calls member, which must read
// exactly the member's value or return an error, which Object returns.
func (r *Reader) Object(member func(name string) error) error {
	if err := r.open('{'); err != nil {
		return err
	}
	for r.dec.PeekKind() == '"' {
		name, err := r.quoted()
		if err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
	}
	return r.close('}')
}

// Array reads an array. For each element it calls element with its index; it
// must read exactly the element's value or return an error, which Array returns.
func (r *Reader) Array(element func(index int) error) error {
	if err := r.open('['); err != nil {
		return err
	}
	for i := 0; ; i++ {
		switch r.dec.PeekKind() {
		case ']':
			return r.close(']')
		case jsontext.KindInvalid, '}':
			return ErrSyntax
		}
		if err := element(i); err != nil {
			return err
		}
	}
}

// String reads a string. Where the document does not escape it, it shares the
// document's memory.
func (r *Reader) String() (string, error) {
	if err := r.expect('"'); err != nil {
		return "", err
	}
	return r.quoted()
}

// quoted reads a string that is known to come next.
func (r *Reader) quoted() (string, error) {
	quoted, err := r.Raw()
	if err != nil {
		return "", err
	}
	inner := quoted[1 : len(quoted)-1]
	if !r.escapes || strings.IndexByte(inner, '\\') < 0 {
		return inner, nil
	}
	unquoted, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil {
		return "", ErrSyntax
	}
	return string(unquoted), nil
}

// Integer reads a whole number from 0 to 2^53-1, written in plain decimal
// digits: no sign, fraction or exponent.
func (r *Reader) Integer() (int64, error) {
	if err := r.expect('0'); err != nil {
		return 0, err
	}
	digits, err := r.Raw()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(digits, 10, 53)
	if err != nil {
		return 0, ErrRange
	}
	return int64(n), nil
}

// maxTime is the last second of the year 9999.
const maxTime = 253402300799

// Time reads a time up to the year 9999: a number of whole units, seconds or
// milliseconds, since 1970. In seconds it is a NumericDate (RFC 7519 section 2).
func (r *Reader) Time(unit time.Duration) (time.Time, error) {
	n, err := r.Integer()
	perSecond := int64(time.Second / unit)
	if err == nil && n/perSecond > maxTime {
		err = ErrRange
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(n/perSecond, n%perSecond*int64(unit)).UTC(), nil
}

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	switch r.dec.PeekKind() {
	case 't':
		_, err := r.Raw()
		return true, err
	case 'f':
		_, err := r.Raw()
		return false, err
	case jsontext.KindInvalid:
		return false, ErrSyntax
	}
	return false, ErrType
}

// Raw reads any value and returns its text, which shares the document's memory.
// Names are unique and text is valid UTF-8 in all of it.
func (r *Reader) Raw() (string, error) {
	value, err := r.dec.ReadValue()
	if err != nil {
		return "", ErrSyntax
	}
	end := int(r.dec.InputOffset())
	return r.text[end-len(value) : end], nil
}

// expect checks the kind of what comes next.
func (r *Reader) expect(kind jsontext.Kind) error {
	switch r.dec.PeekKind() {
	case kind:
		return nil
	case jsontext.KindInvalid:
		return ErrSyntax
	}
	return ErrType
}

func (r *Reader) open(kind jsontext.Kind) error {
	if err := r.expect(kind); err != nil {
		return err
	}
	return r.close(kind)
}

func (r *Reader) close(kind jsontext.Kind) error {
	token, err := r.dec.ReadToken()
	if err != nil || token.Kind() != kind {
		return ErrSyntax
	}
	return nil
}
