package handoff

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/ident"
)

// keyLister is a KeySource that can list its keys: none while it cannot tell.
type keyLister interface{ Keys() []Key }

// issuers are the issuers that a verifier trusts, and where the keys of each are
// found. It is safe for concurrent use.
type issuers struct {
	sources map[string]KeySource
	order   []KeySource // by the issuers' names

	index atomic.Pointer[index]
	mu    sync.Mutex // held while the next index is made
}

// arrange checks the sources and puts them in order.
func (s *issuers) arrange() error {
	if len(s.sources) == 0 {
		return missing("handoff.VerifierConfig.Issuers")
	}
	for _, issuer := range slices.Sorted(maps.Keys(s.sources)) {
		if err := checkName("handoff.VerifierConfig.Issuers", issuer); err != nil {
			return err
		}
		source := s.sources[issuer]
		if source == nil {
			return &ConfigError{Field: "handoff.VerifierConfig.Issuers", Problem: "has no key source for " + issuer}
		}
		s.order = append(s.order, source)
	}
	return nil
}

// fewIssuers is how many sources are asked in turn, without an index.
const fewIssuers = 16

// indexAge is how old an index may be. It never decides what is accepted: the
// source of the issuer that the token names is always asked itself.
const indexAge = time.Second

// find returns a key with this id and algorithm that some issuer lists, or else
// one with another algorithm: neither of two issuers that list one key with two
// algorithms hides the other's. Where none has the key and one source could not
// tell, its error counts.
//
// Many sources are not all asked. The one of the issuer that the payload names is
// asked first. Nothing has verified the payload yet, and so this decides only
// where to look: what is found is the same key in every source, as its id is its
// thumbprint. Where that source does not list it, the token will be refused, and
// an index says whose key it is, if anybody's.
func (s *issuers) find(ctx context.Context, h header, payload string) (Key, error) {
	if len(s.order) <= fewIssuers {
		return anyOf(s.order).find(ctx, h.kid, h.alg)
	}
	if source, ok := s.sources[namedIssuer(payload)]; ok {
		if key, err := source.Key(ctx, h.kid); err == nil && key.id == h.kid && key.algorithm == h.alg {
			return key, nil
		}
	}
	return s.indexed().find(ctx, h.kid, h.alg)
}

// namedIssuer returns the `iss` that an encoded payload begins with, as each one
// that this package has issued. The payload may be anything.
func namedIssuer(payload string) string {
	const begin = `{"iss":"`
	const most = (len(begin) + ident.MaxName + 1 + 2) / 3 * 4 // whole groups of four characters
	var room [most / 4 * 3]byte
	n, err := base64url.Decode(room[:], []byte(payload[:min(len(payload), most)]))
	if err != nil {
		return ""
	}
	rest, ok := strings.CutPrefix(string(room[:n]), begin)
	name, _, ends := strings.Cut(rest, `"`)
	if !ok || !ends {
		return ""
	}
	return name
}

// index says which sources listed which keys when it was made.
type index struct {
	made   time.Time
	byKey  map[string]anyOf
	others anyOf // always asked: those that cannot list their keys, and some of those that listed none
}

// indexed returns an index that is fresh enough. One goroutine makes the next one,
// and the others wait for it.
func (s *issuers) indexed() *index {
	current := s.index.Load()
	if current != nil && time.Since(current.made) < indexAge {
		return current
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if again := s.index.Load(); again != current {
		return again
	}
	fresh := newIndex(s.order)
	s.index.Store(fresh)
	return fresh
}

func newIndex(sources []KeySource) *index {
	x := &index{made: time.Now(), byKey: make(map[string]anyOf, len(sources))}
	silent := 0
	for _, source := range sources {
		lister, ok := source.(keyLister)
		if !ok {
			x.others = append(x.others, source)
			continue
		}
		listed := lister.Keys()
		for _, key := range listed {
			x.byKey[key.id] = append(x.byKey[key.id], source)
		}
		if len(listed) == 0 {
			// It cannot tell, and its error is what one such source is as good for as all.
			if silent++; silent <= fewIssuers {
				x.others = append(x.others, source)
			}
		}
	}
	return x
}

// find asks the sources that may have the key.
func (x *index) find(ctx context.Context, kid string, algorithm Algorithm) (Key, error) {
	return append(slices.Clip(x.byKey[kid]), x.others...).find(ctx, kid, algorithm)
}

// anyOf are sources that are asked in turn.
type anyOf []KeySource

// find returns the first key with this id and algorithm, or else one with another
// algorithm, or else why there is none: an error that says that a source cannot
// tell, if there is one.
func (sources anyOf) find(ctx context.Context, kid string, algorithm Algorithm) (Key, error) {
	var other Key
	unknown := ErrKeyUnknown
	for _, source := range sources {
		switch key, err := source.Key(ctx, kid); {
		case err == nil && key.algorithm == algorithm:
			return key, nil
		case err == nil:
			other = key
		case !errors.Is(err, ErrKeyUnknown):
			unknown = err
		}
	}
	if other.id != "" && unknown == ErrKeyUnknown {
		return other, nil
	}
	return Key{}, unknown
}
