package rule

import (
	"strconv"
	"strings"
)

// The first piece of text is what most requests' paths and values need; each
// further one is twice as large, up to the largest.
const (
	firstPiece   = 256
	largestPiece = 64 << 10
)

// start makes room in the text for n more bytes and returns where they begin. Where
// there is none it begins another piece: nothing is copied to grow.
func (w *walk) start(n int) int {
	if has := w.text.Cap(); n > has-w.text.Len() {
		w.text = strings.Builder{}
		w.text.Grow(max(n, firstPiece, min(2*has, largestPiece)))
	}
	w.made += n
	return w.text.Len()
}

// since returns the text from start on.
func (w *walk) since(start int) string { return w.text.String()[start:] }

// keep returns b as a string.
func (w *walk) keep(b []byte) string {
	start := w.start(len(b))
	w.text.Write(b)
	return w.since(start)
}

// member returns the path of a message's field: `amount.minor_units`.
func (w *walk) member(at, name string) string {
	if at == "" {
		return name
	}
	start := w.start(len(at) + 1 + len(name))
	w.text.WriteString(at)
	w.text.WriteByte('.')
	w.text.WriteString(name)
	return w.since(start)
}

// element returns the path of a list's element: `lines[0]`.
func (w *walk) element(at string, index int) string {
	var scratch [24]byte
	start := w.start(len(at) + len(scratch))
	w.text.WriteString(at)
	w.text.WriteByte('[')
	w.text.Write(strconv.AppendInt(scratch[:0], int64(index), 10))
	w.text.WriteByte(']')
	return w.since(start)
}

// entry returns the path of a map's entry: `labels["eu"]`. The key is a JSON
// string as RFC 8785 section 3.2.2.2 spells it; it is valid UTF-8.
func (w *walk) entry(at, key string) string {
	start := w.start(len(at) + len(key) + 4)
	w.text.WriteString(at)
	w.text.WriteString(`["`)
	for i := range len(key) {
		w.escape(key[i])
	}
	w.text.WriteString(`"]`)
	return w.since(start)
}

func (w *walk) escape(c byte) {
	const digits = "0123456789abcdef"
	switch c {
	case '"', '\\':
		w.text.WriteByte('\\')
		w.text.WriteByte(c)
	case '\b':
		w.text.WriteString(`\b`)
	case '\t':
		w.text.WriteString(`\t`)
	case '\n':
		w.text.WriteString(`\n`)
	case '\f':
		w.text.WriteString(`\f`)
	case '\r':
		w.text.WriteString(`\r`)
	default:
		if c >= ' ' {
			w.text.WriteByte(c)
			return
		}
		w.text.WriteString(`\u00`)
		w.text.WriteByte(digits[c>>4])
		w.text.WriteByte(digits[c&15])
	}
}
