package trust

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/ident"
)

// Terms are the times that an issuer keeps to. From them follows when anything
// that it has said is over: how long a revocation must be listed, how long ahead
// a key, how long after its last signature. Every process of an issuer uses the
// same Terms, and they change only while nothing of the former is alive.
type Terms struct {
	// Issuer is the `iss` of the issuer's tokens and of its list. Required.
	Issuer string
	// TokenLifetime is the longest that one of its tokens lives, in whole seconds:
	// handoff.IssuerConfig.MaxVisitLifetime of an issuer of visits, and of others its
	// MaxLifetime. Zero: an hour, which is the most, and safe for all.
	TokenLifetime time.Duration
	// ListLifetime is how long a trust list lives (exp - iat), in whole seconds,
	// at most 24 h: the longest age at which any audience can rely on one. Zero:
	// 60 s.
	ListLifetime time.Duration
	// Skew is how much any two clocks, of this issuer's processes and of its
	// audiences, may differ. Zero: 5 s. At most 60 s.
	Skew time.Duration
}

// Bounds of the trust list.
const (
	// DefaultListLifetime is how long a list lives when its issuer is not told.
	DefaultListLifetime = 60 * time.Second
	// MaxListLifetime is the longest that a list can live.
	MaxListLifetime = 24 * time.Hour
)

// check returns the terms with what is not set filled in.
func (t Terms) check() (Terms, error) {
	t = t.filled()
	switch {
	case !ident.Name(t.Issuer):
		return t, refused("Terms.Issuer", "must be 1 to 255 visible ASCII characters without space, quote or backslash")
	case t.TokenLifetime < time.Second || t.TokenLifetime > handoff.KindVisit.MaxLifetime() || t.TokenLifetime%time.Second != 0:
		return t, refused("Terms.TokenLifetime", "is %s: it must be whole seconds from 1s to %s", t.TokenLifetime, handoff.KindVisit.MaxLifetime())
	case t.ListLifetime < time.Second || t.ListLifetime > MaxListLifetime || t.ListLifetime%time.Second != 0:
		return t, refused("Terms.ListLifetime", "is %s: it must be whole seconds from 1s to %s", t.ListLifetime, MaxListLifetime)
	case t.Skew < 0 || t.Skew > handoff.MaxSkew:
		return t, refused("Terms.Skew", "is %s: it must be at most %s, and not negative", t.Skew, handoff.MaxSkew)
	}
	return t, nil
}

// refused names a field of this package's configurations.
func refused(field, problem string, args ...any) error {
	return &handoff.ConfigError{Field: "trust." + field, Problem: fmt.Sprintf(problem, args...)}
}

func (t Terms) filled() Terms {
	t.TokenLifetime = cmp.Or(t.TokenLifetime, handoff.KindVisit.MaxLifetime())
	t.ListLifetime = cmp.Or(t.ListLifetime, DefaultListLifetime)
	t.Skew = cmp.Or(t.Skew, handoff.DefaultSkew)
	return t
}

// Before returns how long a key must have been listed before it signs: until
// then some audience may rely on a list without it. Such a list was read before
// the key was there, by a clock up to Skew ahead, and the audience's may be as
// far behind.
func (t Terms) Before() time.Duration {
	t = t.filled()
	return t.ListLifetime + 2*t.Skew
}

// After returns how long a key must stay listed once it is to sign no more. A
// process of the issuer may hear of that as late as Lag says, its clock may be
// ahead, the audience's behind, and what it signed last lives for TokenLifetime.
func (t Terms) After() time.Duration {
	t = t.filled()
	return t.Lag() + t.TokenLifetime + 2*t.Skew
}

// Lag returns how long after a change of its keys every process of the issuer
// signs by it: Skew.
func (t Terms) Lag() time.Duration { return t.filled().Skew }

// Kind is what an Entry takes back.
type Kind string

// The kinds of entries.
const (
	KindToken   Kind = "token"   // one handoff token, by its id (jti)
	KindSession Kind = "session" // every token of a session, by the session's id (sid)
	KindSubject Kind = "subject" // every token of a user with an iat at or before the cut-off
)

// Entry is one thing taken back: a row of the issuer's store. Terms makes it.
// Record it durably before the revocation is acknowledged, keep the greater
// Cutoff and Until where Kind and ID are already there, and delete it when Until
// has passed. It names no user, and is not a secret.
type Entry struct {
	Kind Kind
	// ID is a jti or sid, 128 random bits in base64url, or the digest of a
	// subject, 256 bits in base64url.
	ID string
	// Cutoff is the latest iat that is taken back, in whole seconds. Of a subject
	// alone; otherwise zero.
	Cutoff time.Time
	// Until is when the last token that the entry touches is dead, by every clock:
	// from then on it is not listed.
	Until time.Time
}

// Token takes back one token, by its id (jti), which expires when its exp says.
func (t Terms) Token(id string, expires time.Time) (Entry, error) {
	if _, err := parseID(id); err != nil {
		return Entry{}, err
	}
	return Entry{Kind: KindToken, ID: id, Until: expires.Add(t.filled().Skew)}, nil
}

// Session takes back every token of a session, by the id that its tokens carry
// (sid). now is the issuer's clock.
func (t Terms) Session(id string, now time.Time) (Entry, error) {
	if _, err := parseID(id); err != nil {
		return Entry{}, err
	}
	t = t.filled()
	return Entry{Kind: KindSession, ID: id, Until: now.Add(t.TokenLifetime + 2*t.Skew)}, nil
}

// Subject takes back every token of a user, by the immutable id that its tokens
// carry (sub), up to the cut-off. latest is the latest iat that a token of the
// user which has been handed out can have; the cut-off is its whole second:
//
//   - the clock's now, where one process issues
//   - the later of now and the latest iat recorded for the user, read in the
//     transaction that records the entry, where each token is recorded before it
//     is handed out
//   - now plus Skew, where several processes issue and nothing is recorded
//
// What the issuer does about tokens that are being signed at that moment, see
// Wait.
func (t Terms) Subject(sub string, latest time.Time) (Entry, error) {
	if !ident.Name(sub) || !ident.Name(t.Issuer) {
		return Entry{}, errors.New("the subject or Terms.Issuer is not one that a token can have")
	}
	t = t.filled()
	cutoff := latest.UTC().Truncate(time.Second)
	digest := subjectDigest(t.Issuer, sub)
	return Entry{
		Kind: KindSubject, ID: base64url.EncodeToString(digest[:]),
		Cutoff: cutoff, Until: cutoff.Add(t.TokenLifetime + 2*t.Skew),
	}, nil
}

// Wait returns how long an issuer holds back a token for a user who was cut off:
// zero once a token that it issues at now is not taken back by the cut-off.
//
// An issuer asks at two moments. Before it signs: it sleeps for as long as Wait
// says, under a second unless clocks differ, so that a user who signs in again
// gets only tokens that stand. And after it has signed, before it hands the token
// out, in the transaction that records it: a token whose session has ended, or
// whose iat is at or before the cut-off, is not handed out. That second look is
// what stops a token that was being signed while its user was cut off.
func Wait(cutoff, now time.Time) time.Duration {
	if cutoff.IsZero() {
		return 0
	}
	return max(0, cutoff.Truncate(time.Second).Add(time.Second).Sub(now))
}

// subjectDigest is the SHA-256 of iss, a zero byte and sub, neither of which can
// contain one. It does not allocate.
func subjectDigest(issuer, subject string) digest {
	var buf [ident.MaxName + 1 + ident.MaxName]byte
	n := copy(buf[:ident.MaxName], issuer) + 1
	n += copy(buf[n:], subject)
	return sha256.Sum256(buf[:n])
}
