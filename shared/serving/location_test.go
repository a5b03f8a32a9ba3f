package serving

import (
	"strings"
	"testing"
)

// I10: a place is a path or exactly a supported URL; what is nearly one is refused,
// and nothing of it is repeated.
func TestI10ParseLocation(t *testing.T) {
	for text, want := range map[string]string{
		"server1.db":                            "server1.db",
		"data/server1.db":                       "data/server1.db",
		"/var/lib/handoff//server1.db":          "/var/lib/handoff/server1.db",
		"./host=x":                              "host=x",
		"../a b:c@d.db":                         "../a b:c@d.db",
		"/a b?c#%41&x.db":                       "/a b?c#%41&x.db",
		"store://u:p%40ss@h:1/x?a=b":            "store://u:p%40ss@h:1/x?a=b",
		"store:///x?host=/run/s":                "store:///x?host=/run/s",
		"stores://h":                            "stores://h",
		"store://h/a%26b%3Dc?x=y&z=%26":         "store://h/a%26b%3Dc?x=y&z=%26",
		"https://h/a=b&c":                       "https://h/a=b&c",
		"":                                      "is empty",
		" server1.db":                           "no space before or after",
		"server1.db\n":                          "no space before or after",
		"a\x00b":                                "control",
		"/a\nb":                                 "control",
		" store://u:hunter2@h/x":                "no space before or after",
		"STORE://u:hunter2@h/x":                 "lower case",
		"Store://u:hunter2@h/x":                 "lower case",
		"mysql://u:hunter2@h/x":                 "must be a place",
		"store+psycopg://u:hunter2@h/x":         "must be a place",
		"jdbc:store://u:hunter2@h/x":            "must be a place",
		"/store://u:hunter2@h/x":                "must be a place",
		"\"store://u:hunter2@h/x\"":             "must be a place",
		"://u:hunter2@h/x":                      "must be a place",
		"//u:hunter2@h/x":                       "one slash",
		"//dir/x.db":                            "one slash",
		"store:/u:hunter2@h/x":                  "begins with / or ./",
		"store:u:hunter2@h/x":                   "begins with / or ./",
		"u:hunter2@h:5432/x":                    "begins with / or ./",
		"u:hunter2@h":                           "begins with / or ./",
		"host=h user=u password=hunter2":        "begins with / or ./",
		"password=hunter2":                      "begins with / or ./",
		"host='h' password='hunter2'":           "begins with / or ./",
		"Server=h;Password=hunter2":             "begins with / or ./",
		"localhost:6379":                        "begins with / or ./",
		":memory:":                              "begins with / or ./",
		"file:x.db":                             "begins with / or ./",
		"x.db?mode=memory":                      "begins with / or ./",
		"store://h/x&password=hunter2":          "question mark",
		"store://h/x=hunter2?a=b":               "question mark",
		"store://h&password=hunter2":            "question mark",
		"store://h/&a?password=hunter2":         "question mark",
		"store://u:hun/ter2@h/x@y":              "percent-encode",
		"store://u:hun@ter2@h/x":                "percent-encode",
		"store://u:hun#ter2@h/x":                "percent-encode",
		"store://u:1#hunter2@h/x":               "percent-encode",
		"store://u:hun ter2@h/x":                "percent-encode",
		"store://u:%zzhunter2@h/x":              "percent-encode",
		"store://u:hunter2@h:port/x":            "percent-encode",
		"store://u:hunter2@[::1/x":              "percent-encode",
		"store://u:hunter2@h/x store://u:p@h/y": "percent-encode",
	} {
		at, err := ParseLocation(text, "a place", "store", "stores", "https")
		switch {
		case err == nil:
			got := at.Path
			if at.URL != nil {
				got += at.URL.String()
			}
			if got != want {
				t.Errorf("%q is taken for %q", text, got)
			}
		case !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "must be a place"):
			t.Errorf("%q: %v; want %s", text, err, want)
		case strings.Contains(err.Error(), "unter2") || strings.Contains(err.Error(), "dir"):
			t.Errorf("%q: it is repeated: %v", text, err)
		}
	}
}
