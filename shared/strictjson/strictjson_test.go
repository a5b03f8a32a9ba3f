package strictjson

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// walk reads any document through the Reader's own methods, so that each of
// them meets each kind of input.
func walk(r *Reader) error {
	for _, read := range []func() error{
		func() error { return r.Object(func(string) error { return walk(r) }) },
		func() error { return r.Array(func(int) error { return walk(r) }) },
		func() error { _, err := r.String(); return err },
		func() error { _, err := r.Bool(); return err },
		func() error { _, err := r.Integer(); return err },
	} {
		if err := read(); !errors.Is(err, ErrType) {
			return err
		}
	}
	_, err := r.Raw()
	return err
}

func TestRead(t *testing.T) {
	for _, test := range []struct {
		text string
		want error
	}{
		{`{}`, nil},
		{`[]`, nil},
		{` {"a" : [ 1 , "b", true, false, null, {"c":{}} ] } `, nil},
		{`"\u0041\\"`, nil},
		{`9007199254740991`, nil},
		{``, ErrSyntax},
		{` `, ErrSyntax},
		{`{`, ErrSyntax},
		{`{"a":1,}`, ErrSyntax},
		{`{"a" 1}`, ErrSyntax},
		{`{"a":1 "b":2}`, ErrSyntax},
		{`{a:1}`, ErrSyntax},
		{`{1:1}`, ErrSyntax},
		{`[1,]`, ErrSyntax},
		{`[1 2]`, ErrSyntax},
		{`[,1]`, ErrSyntax},
		{`[1`, ErrSyntax},
		{`[}`, ErrSyntax},
		{`{]`, ErrSyntax},
		{`{} {}`, ErrSyntax},
		{`{}x`, ErrSyntax},
		{"\ufeff{}", ErrSyntax},
		{"{}\x00", ErrSyntax},
		{`{"a":1,"a":2}`, ErrSyntax},
		{`{"a":1,"\u0061":2}`, ErrSyntax},
		{`{"x":{"a":1,"a":2}}`, ErrSyntax},
		{"\"\xff\"", ErrSyntax},
		{`"\ud800"`, ErrSyntax},
		{`"\udc00\ud800"`, ErrSyntax},
		{`01`, ErrSyntax},
		{`+1`, ErrSyntax},
		{`NaN`, ErrSyntax},
		{`// comment`, ErrSyntax},
		{`-1`, ErrRange},
		{`-0`, ErrRange},
		{`1.0`, ErrRange},
		{`1e3`, ErrRange},
		{`9007199254740992`, ErrRange},
		{`1e400`, ErrRange},
	} {
		if err := Read(test.text, walk); !errors.Is(err, test.want) {
			t.Errorf("Read(%q) = %v, want %v", test.text, err, test.want)
		}
	}
}

func TestReadValues(t *testing.T) {
	var name, text string
	var number int64
	var flag bool
	err := Read(`{"n\u0061me":"v\n","number":12,"flag":true,"raw":[1, {"x":2}]}`, func(r *Reader) error {
		return r.Object(func(member string) (err error) {
			switch member {
			case "name":
				name = member
				text, err = r.String()
			case "number":
				number, err = r.Integer()
			case "flag":
				flag, err = r.Bool()
			case "raw":
				var raw string
				if raw, err = r.Raw(); err == nil && raw != `[1, {"x":2}]` {
					t.Errorf("raw = %q", raw)
				}
			}
			return err
		})
	})
	if err != nil || name != "name" || text != "v\n" || number != 12 || !flag {
		t.Errorf("read %q %q %d %v, %v", name, text, number, flag, err)
	}
}

// A time ends with the year 9999, in either unit.
func TestReadTime(t *testing.T) {
	for _, test := range []struct {
		text string
		unit time.Duration
		want time.Time
		err  error
	}{
		{`0`, time.Second, time.Unix(0, 0), nil},
		{`253402300799`, time.Second, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), nil},
		{`253402300800`, time.Second, time.Time{}, ErrRange},
		{`1700000000123`, time.Millisecond, time.UnixMilli(1700000000123), nil},
		{`253402300799999`, time.Millisecond, time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC), nil},
		{`253402300800000`, time.Millisecond, time.Time{}, ErrRange},
		{`9007199254740991`, time.Millisecond, time.Time{}, ErrRange},
		{`"0"`, time.Second, time.Time{}, ErrType},
	} {
		var got time.Time
		err := Read(test.text, func(r *Reader) (err error) {
			got, err = r.Time(test.unit)
			return err
		})
		if !errors.Is(err, test.err) || !got.Equal(test.want) || got.Location() != time.UTC {
			t.Errorf("%s in %s: %s, %v", test.text, test.unit, got, err)
		}
	}
}

// A callback that stops early leaves the Reader usable for the next document.
func TestReaderIsCleanAfterAnError(t *testing.T) {
	stop := errors.New("stop")
	for range 100 {
		err := Read(`{"a":{"b":[1,2,3]}}`, func(r *Reader) error {
			return r.Object(func(string) error { return stop })
		})
		if !errors.Is(err, stop) {
			t.Fatalf("err = %v", err)
		}
		if err := Read(`{"a":1}`, walk); err != nil {
			t.Fatalf("after an abandoned document: %v", err)
		}
	}
}

func TestReadDeepNesting(t *testing.T) {
	if err := Read(strings.Repeat("[", 100_000), walk); !errors.Is(err, ErrSyntax) {
		t.Errorf("err = %v", err)
	}
}
