// Package keyset reads public keys: a JWK Set, a single JWK, or PEM.
//
//	keys, err := keyset.Load("shop.jwks")
//	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
//		Audience: "https://billing.example",
//		Issuers:  map[string]handoff.KeySource{"https://shop.example": keys},
//		Store:    replay.NewMemory(replay.Config{})})
//
// # What is accepted
//
// A JWK Set or a JWK (RFC 7517), strict JSON of at most 1 MiB, or one or more
// PEM blocks "PUBLIC KEY" (RFC 7468 section 13). Each key is vetted when it is
// read, by handoff.NewKey; one defect refuses the whole set, because a key that
// silently drops out of a set is found only when it is needed. Refused are:
//
//   - a private or a symmetric key, of any type: it has been published
//   - a point off its curve, an Ed25519 key of low order, a weak RSA modulus
//   - a `use` other than sig, `key_ops` without verify, an `alg` that is not one
//     of the five or does not fit the key
//   - an RSA key without `alg`, so any RSA key in PEM: the key decides the
//     algorithm, and RS256 and PS256 share their keys. The curves imply theirs
//   - one key, or one name, twice; a set in which no key is usable
//
// A JWK whose `kty` or `crv` is not known here is skipped and the rest is kept
// (RFC 7517 section 5), so that an issuer can publish keys of a newer kind ahead.
// Members of a JWK that are not known are ignored, `x5c` and its kin included.
//
// # Names
//
// A key's id is its RFC 7638 thumbprint, computed here. A `kid` in the file says
// nothing about the key, and may be anything that names no other key of the set:
// tokens of this project carry the thumbprint.
//
// # The file
//
// A set from Load follows its file, as package vetted does. At most once a second,
// a lookup reads the file, so that a change counts for every token that arrives a
// second or more after it, and nothing runs in the background.
// No token causes more than that: never a network request, and an unknown kid no
// more than a known one. A file that has become bad or has gone does not replace
// the last good set: to withdraw a key, write a file without it. Write the new
// file beside the old one and rename it into place. Who can write the file says
// whom to trust: one that its group or all can write is bad.
//
// # What it does not do
//
// It reads no certificates and fetches nothing. Withdrawing single tokens is
// package trust's.
package keyset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// Set is a set of vetted public keys, a handoff.KeySource. It is never empty. It
// is safe for concurrent use.
type Set struct {
	// Observe, if not nil, is told about each change of the set's file: nil when
	// the keys that it now has are in force, or why the last good ones stay. A
	// fault is told once, not with every attempt. Set it before the set is used.
	// Whichever lookup finds the change calls it, so it must not block.
	Observe func(err error)

	fixed *keys // nil: the set is a file's
	file  *vetted.Followed[*keys]
}

// keys is one state of a set. It is immutable.
type keys struct {
	ordered []handoff.Key
	byID    map[string]handoff.Key
}

// New returns a set of these keys. It refuses the zero Key, one key twice, and
// none at all.
func New(ks ...handoff.Key) (*Set, error) {
	c := newCollector()
	for i, k := range ks {
		if err := c.add(k, ""); err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
	}
	return fixed(c.keys())
}

// Parse reads a set that does not change. The error says which key is refused
// and why, and contains no part of it.
func Parse(b []byte) (*Set, error) {
	return fixed(parse(b))
}

func fixed(k *keys, err error) (*Set, error) {
	if err != nil {
		return nil, err
	}
	return &Set{fixed: k}, nil
}

// Key returns the key with this id, or handoff.ErrKeyUnknown. It does not
// allocate, except when it reads the set's file.
func (s *Set) Key(_ context.Context, kid string) (handoff.Key, error) {
	key, ok := s.load().byID[kid]
	if !ok {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return key, nil
}

// Keys returns the keys, in the order of the file.
func (s *Set) Keys() []handoff.Key { return slices.Clone(s.load().ordered) }

// MarshalJSON returns the JWK Set (RFC 7517 section 5): for each key its public
// members with `kid`, `alg` and `use`. Parse reads it.
func (s *Set) MarshalJSON() ([]byte, error) {
	var set jose.JSONWebKeySet
	for _, k := range s.load().ordered {
		set.Keys = append(set.Keys, jose.JSONWebKey{
			Key: k.Public(), KeyID: k.ID(), Algorithm: string(k.Algorithm()), Use: "sig",
		})
	}
	return json.Marshal(set)
}

func (s *Set) load() *keys {
	if s.fixed != nil {
		return s.fixed
	}
	return s.file.Get()
}

// Look reads the set's file now, even if it has been read within the second.
func (s *Set) Look() {
	if s.file != nil {
		s.file.Look()
	}
}

// collector gathers the keys of a set and refuses what is ambiguous.
type collector struct {
	ordered []handoff.Key
	names   map[string]string // a kid or a thumbprint -> the thumbprint of the key that it names
}

func newCollector() *collector { return &collector{names: map[string]string{}} }

// add takes a key that a file calls kid; empty: nothing.
func (c *collector) add(k handoff.Key, kid string) error {
	if k.ID() == "" {
		return errors.New("the zero key verifies nothing")
	}
	if c.names[k.ID()] == k.ID() {
		return errors.New("the same key is in the set twice")
	}
	c.ordered = append(c.ordered, k)
	if err := c.name(k.ID(), k.ID()); err != nil {
		return err
	}
	return c.name(kid, k.ID())
}

// skip takes the name of a key that is not understood: no other may have it.
func (c *collector) skip(kid string) error {
	return c.name(kid, "skipped "+strconv.Itoa(len(c.names)))
}

func (c *collector) name(kid, key string) error {
	if kid == "" {
		return nil
	}
	if other, ok := c.names[kid]; ok && other != key {
		return errors.New("its kid names another key of the set as well")
	}
	c.names[kid] = key
	return nil
}

func (c *collector) keys() (*keys, error) {
	if len(c.ordered) == 0 {
		return nil, errors.New("the set has no usable key")
	}
	k := &keys{ordered: c.ordered, byID: make(map[string]handoff.Key, len(c.ordered))}
	for _, key := range c.ordered {
		k.byID[key.ID()] = key
	}
	return k, nil
}
