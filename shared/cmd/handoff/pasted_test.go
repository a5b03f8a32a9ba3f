package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// The holder of a token is told what was copied along with it.
func TestPastedTokens(t *testing.T) {
	path := newKeyFile(t)
	key, err := signkey.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	set, err := keyset.New(key.Key())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	keys := path + ".jwks"
	if err := os.WriteFile(keys, text, 0o600); err != nil {
		t.Fatal(err)
	}
	who := []string{"--issuer", "https://shop.example", "--audience", "https://billing.example"}
	_, raw, complaint := invoke(t, "", append([]string{"issue", "--key", path, "--subject", "u", "--method", "/a.B/C"}, who...)...)
	if complaint != "" {
		t.Fatal(complaint)
	}
	raw = strings.TrimSuffix(raw, "\n")
	for name, c := range map[string]struct{ text, says string }{
		"as it is":            {raw, ""},
		"a line feed":         {raw + "\n", ""},
		"CRLF":                {raw + "\r\n", "carriage return"},
		"Bearer":              {"Bearer " + raw + "\n", `\"Bearer \"`},
		"bearer":              {"bearer " + raw, `\"Bearer \"`},
		"the whole header":    {"Authorization: Bearer " + raw, `\"authorization:\"`},
		"quotes":              {`"` + raw + `"`, "quotes"},
		"a quote":             {raw + "'", "quotes"},
		"a space behind":      {raw + " \n", "white space"},
		"a space before":      {"\t" + raw, "white space"},
		"two line feeds":      {raw + "\n\n", "white space"},
		"broken into lines":   {raw[:40] + "\n" + raw[40:], "white space"},
		"a byte order mark":   {"\ufeff" + raw, "byte order mark"},
		"typographic quotes":  {"\u201c" + raw + "\u201d", "U+201C"},
		"a space of no width": {raw + "\u200b", "U+200B"},
		"angle brackets":      {"<" + raw + ">", "U+003C"},
		"its JSON":            {`{"token":"` + raw + `"}`, "U+007B"},
		"a comma":             {raw + ",", "U+002C"},
		"percent signs":       {strings.ReplaceAll(raw, ".", "%2E"), "U+0025"},
		"UTF-16":              {"\xff\xfe" + strings.ReplaceAll(raw, "", "\x00")[1:], "UTF-8"},
		"another's mistakes":  {raw[1:], ""},
	} {
		status, out, _ := invoke(t, c.text, append([]string{"verify", "--keys", keys}, who...)...)
		switch {
		case c.text == raw || c.text == raw+"\n":
			if status != exitDone {
				t.Errorf("%s: status %d, %s", name, status, out)
			}
		case status != exitRefused || !strings.Contains(out, "TOKEN_INVALID") || !strings.Contains(out, c.says):
			t.Errorf("%s: verify says %d, %s", name, status, out)
		}
		_, out, _ = invoke(t, c.text, "inspect")
		if told := strings.Contains(out, "not just a token"); told != (c.says != "") || !strings.Contains(out, strings.ReplaceAll(c.says, `\`, "")) {
			t.Errorf("%s: inspect says %s", name, out)
		}
	}
	// A blank line in NDJSON says nothing, and stops nothing.
	line := `{"id":"x","token":"` + raw + `"}` + "\n"
	status, out, complaint := invoke(t, line+"\n"+line+" \r\n"+line, append([]string{"verify", "--ndjson", "--keys", keys}, who...)...)
	if status != exitDone || strings.Count(out, `"valid":true`) != 3 {
		t.Errorf("NDJSON with blank lines: status %d, %s%s", status, out, complaint)
	}
}
