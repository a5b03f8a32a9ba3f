package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// visible escapes what a terminal would obey or hide in a JSON text, control and
// formatting characters, as JSON does. What it means stays the same.
func visible(text string) string {
	hidden := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if strings.IndexFunc(text, hidden) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// pasted says what has come along with a token that was copied from somewhere; empty:
// nothing. Servers only refuse it: this is for the token's holder.
func pasted(raw string) string {
	trimmed := strings.TrimSpace(raw)
	begins := func(with string) bool {
		return len(trimmed) >= len(with) && strings.EqualFold(trimmed[:len(with)], with)
	}
	switch {
	case strings.HasPrefix(raw, "\ufeff"):
		return "it begins with a byte order mark: leave that out"
	case begins("authorization:"):
		return "it begins with \"authorization:\": leave that out"
	case begins("bearer "):
		return "it begins with \"Bearer \": leave that out"
	case trimmed != "" && strings.ContainsAny(trimmed[:1]+trimmed[len(trimmed)-1:], "\"'`"):
		return "it stands in quotes: leave them out"
	case strings.Contains(raw, "\r"):
		return "it has a carriage return, which ends a line on Windows: leave it out"
	case strings.ContainsFunc(raw, unicode.IsSpace):
		return "it has white space before, behind or in it: leave that out"
	case !utf8.ValidString(raw):
		return "it is not UTF-8: save it as that, without a byte order mark"
	}
	if at := strings.IndexFunc(raw, foreign); at >= 0 {
		r, _ := utf8.DecodeRuneInString(raw[at:])
		return fmt.Sprintf("it has %q (%U), which no token has: leave out what is not the token", r, r)
	}
	return ""
}

// foreign reports whether no token has the character.
func foreign(r rune) bool {
	return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.", r)
}

// appendQuoted appends s as a JSON string that is safe to print.
func appendQuoted(b []byte, s string) []byte {
	quoted, err := jsontext.AppendQuote(b, strings.ToValidUTF8(s, "\ufffd"))
	if err != nil {
		panic("valid UTF-8 is always quoted: " + err.Error())
	}
	return append(b, visible(string(quoted[len(b):]))...)
}
