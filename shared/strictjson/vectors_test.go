package strictjson

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/internal/vectors"
)

// What a stricter reader than RFC 8259 demands refuses of the files that are
// well-formed: a name that occurs twice (RFC 7493 section 2.3).
var wellFormedButRefused = []string{"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}

// What is accepted of the files that a reader may judge as it likes: numbers that
// no float64 holds, which are no concern of a reader that takes whole numbers by
// their digits, and nesting. Nothing that is not valid UTF-8, and no lone
// surrogate (RFC 7493 section 2.1).
var acceptedOfEither = []string{
	"i_number_double_huge_neg_exp.json",
	"i_number_huge_exp.json",
	"i_number_neg_int_huge_exp.json",
	"i_number_pos_double_huge_exp.json",
	"i_number_real_neg_overflow.json",
	"i_number_real_pos_overflow.json",
	"i_number_real_underflow.json",
	"i_number_too_big_neg_int.json",
	"i_number_too_big_pos_int.json",
	"i_number_very_big_negative_int.json",
	"i_structure_500_nested_arrays.json",
}

// raw reads any document as one value.
func raw(r *Reader) error {
	_, err := r.Raw()
	return err
}

func TestJSONTestSuite(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t), "jsontestsuite/test_parsing")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[byte]int{}
	var either []string
	for _, file := range files {
		name := file.Name()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		counts[name[0]]++
		err = Read(string(text), raw)
		if err != nil && !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: %v is no error of this package", name, err)
		}
		switch want := name[0] == 'y' && !slices.Contains(wellFormedButRefused, name); {
		case name[0] == 'i':
			if err == nil {
				either = append(either, name)
			}
		case (err == nil) != want:
			t.Errorf("%s: %v, want accepted: %t", name, err, want)
		}
		// Read value by value, each by the method for its kind, the document is the
		// same one, except for numbers that are not whole.
		if walked := Read(string(text), walk); (walked == nil) != (err == nil) && !errors.Is(walked, ErrRange) {
			t.Errorf("%s: %v value by value, %v at once", name, walked, err)
		} else if err != nil && errors.Is(walked, ErrType) {
			t.Errorf("%s: value by value, %v", name, walked)
		}
	}
	if counts['n'] != 188 || counts['y'] != 95 || counts['i'] != 35 || len(files) != 318 {
		t.Errorf("%d files: %v", len(files), counts)
	}
	if !slices.Equal(either, acceptedOfEither) {
		t.Errorf("accepted of either kind: %s", strings.Join(either, " "))
	}
}

// FuzzRead compares the two ways to read a document, and what is read twice.
func FuzzRead(f *testing.F) {
	if dir, ok := vectors.Find(); ok {
		files, err := filepath.Glob(filepath.Join(dir, "jsontestsuite/test_parsing/*.json"))
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			if len(text) <= 4096 {
				f.Add(string(text))
			}
		}
	}
	f.Add(`{"a":[1,true,null,"b\n\u0041"],"c":{}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var value string
		whole := Read(text, func(r *Reader) (err error) {
			value, err = r.Raw()
			return err
		})
		walked := Read(text, walk)
		if whole == nil && walked != nil && !errors.Is(walked, ErrRange) || whole != nil && walked == nil {
			t.Fatalf("%v at once, %v value by value: %q", whole, walked, text)
		}
		if whole != nil {
			return
		}
		if !strings.Contains(text, value) || strings.Trim(text, " \t\r\n") != value {
			t.Fatalf("read %q of %q", value, text)
		}
		if err := Read(value, raw); err != nil {
			t.Fatalf("what was read is refused: %v: %q", err, value)
		}
	})
}
