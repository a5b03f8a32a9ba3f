package trust

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

var terms = Terms{Issuer: issuer, TokenLifetime: handoff.MaxLifetime}

func TestListRoundTrip(t *testing.T) {
	now := time.Unix(1_800_000_000, 500_000_000)
	key := newSigner().Key()
	token, err1 := terms.Token(handoff.NewID(), now.Add(time.Minute))
	session, err2 := terms.Session(handoff.NewID(), now)
	subject, err3 := terms.Subject("ann", now)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	later := subject
	later.Cutoff = later.Cutoff.Add(time.Second)
	over, err := terms.Token(handoff.NewID(), now.Add(-6*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	d := new(draft)
	l, err := newList(terms.filled(), State{
		Keys:    []handoff.Key{key},
		Revoked: []Entry{token, token, session, later, subject, over},
	}, 7, now, d)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.tokens) != 1 || len(l.sessions) != 1 || len(l.subjects) != 1 {
		t.Errorf("%d tokens, %d sessions, %d subjects", len(l.tokens), len(l.sessions), len(l.subjects))
	}
	payload, err := l.encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := decodeList(string(payload))
	if err != nil {
		t.Fatal(err)
	}
	if read.entries, err = become(string(d.text), read.digest, nil); err != nil {
		t.Fatal(err)
	}
	if !equal(l, read) {
		t.Errorf("read %+v, wrote %+v", read, l)
	}
	for _, name := range []string{"ann", over.ID} {
		if strings.Contains(string(payload)+string(d.text), name) {
			t.Errorf("the list contains %q", name)
		}
	}
	if want := later.Cutoff.Unix(); l.subjects[subjectDigest(issuer, "ann")] != want {
		t.Errorf("the later cut-off does not win")
	}
}

func equal(a, b *list) bool {
	keys := func(l *list) (ids string) {
		for _, k := range l.keys {
			ids += k.ID() + string(k.Algorithm())
		}
		return ids
	}
	return a.issuer == b.issuer && a.issuedAt.Equal(b.issuedAt) && a.expires.Equal(b.expires) && a.seq == b.seq &&
		keys(a) == keys(b) && a.digest == b.digest && (a.entries == nil || equalEntries(a.entries, b.entries))
}

func equalEntries(a, b *entries) bool {
	return a.all == b.all && maps.Equal(a.tokens, b.tokens) && maps.Equal(a.sessions, b.sessions) && maps.Equal(a.subjects, b.subjects)
}

// A store that holds something that no list can say makes no list: to leave it
// out would let what was taken back stand.
func TestStateThatCannotBeListed(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	key := newSigner().Key()
	good, err := terms.Subject("ann", now)
	if err != nil {
		t.Fatal(err)
	}
	many := make([]handoff.Key, MaxKeys+1)
	for i := range many {
		many[i] = newSigner().Key()
	}
	for name, s := range map[string]State{
		"no keys":          {},
		"too many keys":    {Keys: many},
		"no kind":          {Keys: many[:1], Revoked: []Entry{{ID: good.ID, Until: good.Until}}},
		"a short id":       {Keys: many[:1], Revoked: []Entry{{Kind: KindToken, ID: "AAAA", Until: good.Until}}},
		"a digest as id":   {Keys: many[:1], Revoked: []Entry{{Kind: KindSession, ID: good.ID, Until: good.Until}}},
		"no cut-off":       {Keys: many[:1], Revoked: []Entry{{Kind: KindSubject, ID: good.ID, Until: good.Until}}},
		"an id as subject": {Keys: many[:1], Revoked: []Entry{{Kind: KindSubject, ID: handoff.NewID(), Cutoff: now, Until: good.Until}}},
	} {
		if _, err := newList(terms.filled(), s, 1, now, new(draft)); err == nil {
			t.Errorf("%s: listed", name)
		}
	}
	if _, err := newList(terms.filled(), State{Keys: []handoff.Key{key}, Revoked: []Entry{good}}, 1, now, new(draft)); err != nil {
		t.Errorf("control: %v", err)
	}
	l, err := newList(terms.filled(), State{Keys: []handoff.Key{key, key}}, 1, now, new(draft))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.encode(); err == nil {
		t.Error("one key twice: listed")
	}
}

func TestDecodeListRefuses(t *testing.T) {
	good := goodList(forge.NewKey(handoff.EdDSA), time.Unix(1_800_000_000, 0), newSigner().Key()).Payload
	subject := forge.Encode(strings.Repeat("x", 32))
	for _, text := range []string{
		good.String(),
		good.Set("revoked_sha256", forge.Quote(subject)).String(),
		good.Add("a", "1").Without("a").String(),
	} {
		if _, err := decodeList(text); err != nil {
			t.Errorf("control: %v", err)
		}
	}
	refused := []string{
		"", "null", "[]", `"x"`, "{}", good.String() + " x", good.String()[1:],
		good.Add("sub", `"ann"`).String(),
		good.Add("revoked", noEntries).String(),
		good.Add("iss", good.Get("iss")).String(),
		good.Set("revoked_sha256", `""`).String(),
		good.Set("revoked_sha256", noEntries).String(),
		good.Set("revoked_sha256", `"AAAAAAAAAAAAAAAAAAAAAA"`).String(),
		good.Set("revoked_sha256", forge.Quote(subject+"=")).String(),
		good.Set("revoked_sha256", forge.Quote(subject[:42]+"5")).String(),
		good.Set("keys", "[]").String(), // F09: no empty set takes a full one's place
		good.Set("keys", "{}").String(),
		good.Set("keys", `[{"kty":"oct","k":"AAAA"}]`).String(),
		good.Set("keys", `[{"kty":"OKP","crv":"Ed25519","x":"`+subject+`","d":"`+subject+`"}]`).String(),
		good.Set("keys", strings.TrimSuffix(good.Get("keys"), "]")+","+strings.TrimPrefix(good.Get("keys"), "[")).String(),
		good.Set("exp", good.Get("iat")).String(),
		good.Set("exp", "1800086401").String(),
		good.Set("iat", "1e9").String(),
		good.Set("iat", `"1800000000"`).String(),
		good.Set("seq", "0").String(),
		good.Set("seq", "-1").String(),
		good.Set("seq", "9007199254740992").String(),
		good.Set("iss", `""`).String(),
		good.Set("iss", `"https://sh\u0000op.example"`).String(),
		good.Set("iss", `["`+issuer+`"]`).String(),
	}
	for _, member := range []string{"iss", "iat", "exp", "seq", "keys", "revoked_sha256"} {
		refused = append(refused, good.Without(member).String(), good.Set(member, "null").String())
	}
	for _, text := range refused {
		if _, err := decodeList(text); err == nil {
			t.Errorf("accepted: %.300s", text)
		}
	}
}

// Entries have one spelling, and all else is refused, though a trust key has named it.
func TestEntriesInAnotherSpellingAreRefused(t *testing.T) {
	one, two := `"AAAAAAAAAAAAAAAAAAAAAA"`, `"AAAAAAAAAAAAAAAAAAAAAQ"`
	subject, other := forge.Encode(strings.Repeat("x", 32)), forge.Encode(strings.Repeat("y", 32))
	revoked := func(tokens, sessions, subjects string) string {
		return fmt.Sprintf(`{"tokens":%s,"sessions":%s,"subjects":%s}`, tokens, sessions, subjects)
	}
	open := func(text string) error {
		_, err := become(text, hash([]byte(text)), nil)
		return err
	}
	for _, text := range []string{
		noEntries,
		`{"all":12,` + noEntries[1:],
		revoked("["+one+","+two+"]", "["+one+"]", `{"`+subject+`":0,"`+other+`":12}`),
	} {
		if err := open(text); err != nil {
			t.Errorf("control: %v", err)
		}
	}
	for _, text := range []string{
		"", "{}", "[]", "null", " " + noEntries, noEntries + " ", noEntries + "\n", noEntries + noEntries, noEntries[1:],
		`{"all":0,` + noEntries[1:], `{"all":-1,` + noEntries[1:], `{"all":253402300800,` + noEntries[1:], `{"all":"1",` + noEntries[1:],
		`{"sessions":[],"tokens":[],"subjects":{}}`,
		`{"tokens":[],"sessions":[],"subjects":{},"users":[]}`,
		`{"tokens":[],"sessions":[],"subjects":{},"all":1}`,
		`{"tokens":[],"tokens":[],"sessions":[],"subjects":{}}`,
		`{"tokens":[],"sessions":[]}`,
		revoked("["+two+","+one+"]", "[]", "{}"),
		revoked("["+one+", "+two+"]", "[]", "{}"),
		revoked("null", "[]", "{}"),
		revoked("{}", "[]", "{}"),
		revoked("[]", "[]", "[]"),
		revoked("[1]", "[]", "{}"),
		revoked(`["AAAA"]`, "[]", "{}"),
		revoked(`["AAAAAAAAAAAAAAAAAAAAAB"]`, "[]", "{}"),
		revoked(`["AAAAAAAAAAAAAAAAAAAA\r\n"]`, "[]", "{}"),
		revoked(`["AAAAAAAAAAAAAAAAAAAAAA=="]`, "[]", "{}"),
		revoked("["+one+","+one+"]", "[]", "{}"),
		revoked("[]", "["+one+","+one+"]", "{}"),
		revoked("[]", "[]", `{`+one+`:1}`),
		revoked("[]", "[]", `{"`+subject+`":-1}`),
		revoked("[]", "[]", `{"`+subject+`":1.5}`),
		revoked("[]", "[]", `{"`+subject+`":1e1}`),
		revoked("[]", "[]", `{"`+subject+`":"1"}`),
		revoked("[]", "[]", `{"`+subject+`":253402300800}`),
		revoked("[]", "[]", `{"`+subject+`":1,"`+subject+`":2}`),
		revoked("[]", "[]", `{"`+other+`":1,"`+subject+`":2}`),
		string(difference(digest{}, newEntries(), newEntries()).encode()),
	} {
		if open(text) == nil {
			t.Errorf("accepted: %.300s", text)
		}
	}
}

// A key of a kind that is not known yet is skipped (A21).
func TestA21UnknownKeysAreSkipped(t *testing.T) {
	good := goodList(forge.NewKey(handoff.EdDSA), time.Unix(1_800_000_000, 0), newSigner().Key()).Payload
	keys := strings.TrimSuffix(good.Get("keys"), "]") + `,{"kty":"AKP","alg":"ML-DSA-65","pub":"AAAA"}]`
	l, err := decodeList(good.Set("keys", keys).String())
	if err != nil || len(l.keys) != 1 {
		t.Errorf("%v, %+v", err, l)
	}
}

// What is accepted says the same when it is written again.
func FuzzDecodeList(f *testing.F) {
	good := goodList(forge.NewKey(handoff.EdDSA), time.Unix(1_800_000_000, 0), newSigner().Key()).Payload
	f.Add(good.String())
	f.Add(`{"iss":"x","iat":1,"exp":2,"seq":3,"keys":[],"revoked_sha256":""}`)
	f.Add("{")
	f.Fuzz(func(t *testing.T, payload string) {
		l, err := decodeList(payload)
		if err != nil {
			return
		}
		again, err := l.encode()
		if err != nil {
			t.Fatalf("accepted, but cannot be written: %v", err)
		}
		read, err := decodeList(string(again))
		if err != nil {
			t.Fatalf("written, but cannot be read: %v", err)
		}
		if !equal(l, read) {
			t.Errorf("%s\nbecame\n%s", payload, again)
		}
	})
}

func TestRevokedDoesNotAllocate(t *testing.T) {
	c, key, trustKey := newClock(), newSigner(), forge.NewKey(handoff.EdDSA)
	f := newFollower(t, trustKey.Public, c.Now)
	text := naming(goodList(trustKey, c.Now(), key.Key()),
		`{"tokens":["AAAAAAAAAAAAAAAAAAAAAA"],"sessions":["AAAAAAAAAAAAAAAAAAAAAQ"],"subjects":{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA":12}}`)
	if _, err := f.take(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	_, claims := issue(t, key, c.Now, strings.Repeat("a", 255), handoff.NewID())
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if f.Revoked(ctx, claims) != nil {
			t.Error("revoked")
		}
		if _, err := f.Key(ctx, key.Key().ID()); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A follower that stands under another issuer's name in a verifier vouches for
// nothing.
func TestRevokedRefusesAnotherIssuer(t *testing.T) {
	c, key, trustKey := newClock(), newSigner(), forge.NewKey(handoff.EdDSA)
	f := newFollower(t, trustKey.Public, c.Now)
	if _, err := f.take(t.Context(), goodList(trustKey, c.Now(), key.Key()).Compact()); err != nil {
		t.Fatal(err)
	}
	if err := f.Revoked(t.Context(), &handoff.Claims{Issuer: "https://other.example", ID: handoff.NewID()}); err == nil || errors.Is(err, handoff.ErrRevoked) {
		t.Errorf("err = %v", err)
	}
	if err := f.Revoked(t.Context(), &handoff.Claims{Issuer: issuer, ID: handoff.NewID()}); err != nil {
		t.Errorf("control: %v", err)
	}
}
