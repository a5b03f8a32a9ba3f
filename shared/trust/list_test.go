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

var terms = Terms{Issuer: issuer}

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
	l, err := newList(terms.filled(), State{
		Keys:    []handoff.Key{key},
		Revoked: []Entry{token, token, session, later, subject, over},
	}, 7, now)
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
	if !equal(l, read) {
		t.Errorf("read %+v, wrote %+v", read, l)
	}
	for _, name := range []string{"ann", over.ID} {
		if strings.Contains(string(payload), name) {
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
		keys(a) == keys(b) && maps.Equal(a.tokens, b.tokens) && maps.Equal(a.sessions, b.sessions) && maps.Equal(a.subjects, b.subjects)
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
		if _, err := newList(terms.filled(), s, 1, now); err == nil {
			t.Errorf("%s: listed", name)
		}
	}
	if _, err := newList(terms.filled(), State{Keys: []handoff.Key{key}, Revoked: []Entry{good}}, 1, now); err != nil {
		t.Errorf("control: %v", err)
	}
	l, err := newList(terms.filled(), State{Keys: []handoff.Key{key, key}}, 1, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.encode(); err == nil {
		t.Error("one key twice: listed")
	}
}

func TestDecodeListRefuses(t *testing.T) {
	good := goodList(forge.NewKey(handoff.EdDSA), time.Unix(1_800_000_000, 0), newSigner().Key()).Payload
	one, two := forge.Quote(handoff.NewID()), forge.Quote(handoff.NewID())
	subject := forge.Encode(strings.Repeat("x", 32))
	revoked := func(tokens, sessions, subjects string) string {
		return good.Set("revoked", fmt.Sprintf(`{"tokens":%s,"sessions":%s,"subjects":%s}`, tokens, sessions, subjects)).String()
	}
	for _, text := range []string{
		good.String(),
		revoked("["+one+","+two+"]", "["+one+"]", `{"`+subject+`":0}`),
		good.Add("a", "1").Without("a").String(),
	} {
		if _, err := decodeList(text); err != nil {
			t.Errorf("control: %v", err)
		}
	}
	refused := []string{
		"", "null", "[]", `"x"`, "{}", good.String() + " x", good.String()[1:],
		good.Add("sub", `"ann"`).String(),
		good.Add("iss", good.Get("iss")).String(),
		good.Set("revoked", `{}`).String(),
		good.Set("revoked", `[]`).String(),
		good.Set("revoked", `{"tokens":[],"sessions":[],"subjects":{},"users":[]}`).String(),
		good.Set("revoked", `{"tokens":[],"tokens":[],"sessions":[],"subjects":{}}`).String(),
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
		revoked("[]", "[]", `{"`+subject+`":"1"}`),
		revoked("[]", "[]", `{"`+subject+`":253402300800}`),
		revoked("[]", "[]", `{"`+subject+`":1,"`+subject+`":2}`),
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
	for _, member := range []string{"iss", "iat", "exp", "seq", "keys", "revoked"} {
		refused = append(refused, good.Without(member).String(), good.Set(member, "null").String())
	}
	for _, text := range refused {
		if _, err := decodeList(text); err == nil {
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

// What is accepted says the same when it is written anew.
func FuzzDecodeList(f *testing.F) {
	good := goodList(forge.NewKey(handoff.EdDSA), time.Unix(1_800_000_000, 0), newSigner().Key()).Payload
	f.Add(good.String())
	f.Add(good.Set("revoked", `{"tokens":["AAAAAAAAAAAAAAAAAAAAAA"],"sessions":["AAAAAAAAAAAAAAAAAAAAAQ"],"subjects":{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA":12}}`).String())
	f.Add(`{"iss":"x","iat":1,"exp":2,"seq":3,"keys":[],"revoked":{}}`)
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
	good := goodList(trustKey, c.Now(), key.Key()).WithClaim("revoked",
		`{"tokens":["AAAAAAAAAAAAAAAAAAAAAA"],"sessions":["AAAAAAAAAAAAAAAAAAAAAQ"],"subjects":{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA":12}}`)
	if _, err := f.apply(t.Context(), good.Compact()); err != nil {
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
	if _, err := f.apply(t.Context(), goodList(trustKey, c.Now(), key.Key()).Compact()); err != nil {
		t.Fatal(err)
	}
	if err := f.Revoked(t.Context(), &handoff.Claims{Issuer: "https://other.example", ID: handoff.NewID()}); err == nil || errors.Is(err, handoff.ErrRevoked) {
		t.Errorf("err = %v", err)
	}
	if err := f.Revoked(t.Context(), &handoff.Claims{Issuer: issuer, ID: handoff.NewID()}); err != nil {
		t.Errorf("control: %v", err)
	}
}
