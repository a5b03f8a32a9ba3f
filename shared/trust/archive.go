package trust

import (
	"slices"
	"sync"
	"time"
)

// archive has the entries that a publisher's lists name, by their digest: those of
// the newest, and former ones for those who are reading them or have them. Who sends
// them asks for each piece again, and so keeps none: readers can be slow on purpose.
type archive struct {
	mu        sync.Mutex
	documents []*document // the newest last
	changes   map[string]string
}

// document is entries that a list named. It is immutable except for expires.
type document struct {
	name    string // the digest, base64url
	digest  digest
	text    string
	entries *entries
	expires time.Time // when the last list that named it does
}

// Bounds of the archive.
const (
	maxFormer  = 64 << 20 // bytes of entries that no list names any more
	maxChanges = 16       // former entries from which a change is told
)

// add makes a list's entries the newest.
func (a *archive) add(l *list, text []byte, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if newest := a.newest(); newest != nil && newest.digest == l.digest {
		newest.expires = l.expires
		return
	}
	a.changes = map[string]string{}
	d := &document{base64url.EncodeToString(l.digest[:]), l.digest, string(text), l.entries, l.expires}
	a.documents = slices.DeleteFunc(a.documents, func(former *document) bool {
		return former.digest == l.digest || !now.Before(former.expires)
	})
	a.documents = append(a.documents, d)
	size := 0
	for i, d := range slices.Backward(a.documents[:len(a.documents)-1]) {
		if size += len(d.text); size > maxFormer {
			a.documents = slices.Delete(a.documents, 0, i+1)
			return
		}
	}
}

func (a *archive) newest() *document {
	if len(a.documents) == 0 {
		return nil
	}
	return a.documents[len(a.documents)-1]
}

// text returns the entries with a digest, or an empty text.
func (a *archive) text(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.documents {
		if d.name == name {
			return d.text
		}
	}
	return ""
}

// change returns what the newest entries differ by from former ones, where that is
// known and short, or an empty text. Many readers ask for the same.
func (a *archive) change(from, to string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	newest := a.newest()
	if newest == nil || newest.name != to || from == to {
		return ""
	}
	if text, known := a.changes[from]; known {
		return text
	}
	for _, d := range a.documents[max(0, len(a.documents)-1-maxChanges):] {
		if d.name == from {
			text := string(difference(d.digest, d.entries, newest.entries).encode())
			if len(text) > part {
				text = ""
			}
			a.changes[from] = text
			return text
		}
	}
	return ""
}
