package pages

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"
)

// The most that a form can have, and the longest that it can take to arrive.
const (
	maxForm     = 8 << 10 // bytes
	formTimeout = 5 * time.Second
)

// Why a form is not read.
var (
	errFormType    = errors.New("the form is not application/x-www-form-urlencoded")
	errFormSize    = errors.New("the form is too large")
	errFormSlow    = errors.New("the form did not arrive in time")
	errFormContent = errors.New("the form does not have each of its fields once at most, and no others")
)

// form reads the request's form, in which each of the fields can stand once. A field that
// is not there is empty.
func (e *exchange) form(fields ...string) (map[string]string, error) {
	kind, _, err := mime.ParseMediaType(e.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, errFormType
	}
	text, err := e.readBody()
	if err != nil {
		return nil, err
	}
	all, err := url.ParseQuery(text)
	if err != nil {
		return nil, errFormContent
	}
	form := map[string]string{}
	for name, values := range all {
		if len(values) != 1 || !slices.Contains(fields, name) {
			return nil, errFormContent
		}
		form[name] = values[0]
	}
	return form, nil
}

func (e *exchange) readBody() (string, error) {
	if e.r.ContentLength > maxForm {
		e.w.Header().Set("Connection", "close") // rather than read the rest
		return "", errFormSize
	}
	connection := http.NewResponseController(e.w)
	if err := connection.SetReadDeadline(time.Now().Add(formTimeout)); err != nil {
		return "", err
	}
	text, err := io.ReadAll(http.MaxBytesReader(e.w, e.r.Body, maxForm))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return "", errFormSize
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", errFormSlow
	case err != nil:
		return "", errFormContent
	}
	return string(text), connection.SetReadDeadline(time.Time{})
}
