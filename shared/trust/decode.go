package trust

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// open returns the list that raw is, if one of the trust keys signed it and its
// form is right. Whether it is a list to rely on now is the follower's to say.
// What is long and not a list is refused at the price of looking through it once.
func open(ctx context.Context, raw string, trustKeys handoff.KeySource) (*list, error) {
	if len(raw) <= profile.MaxLength && strings.IndexByte(raw[:min(len(raw), maxHeader)], '.') < 0 {
		return nil, &listError{fault: FaultSignature, check: handoff.CheckTokenParts, text: "the header is missing or too long"}
	}
	payload, _, err := profile.Open(ctx, raw, trustKeys)
	var refusal *handoff.Refusal
	switch {
	case errors.As(err, &refusal):
		text := refusal.Detail
		if refusal.Check == handoff.CheckKeyUnknown { // whose text is about handoff tokens
			text = "it is not signed by a trust key"
		}
		return nil, &listError{fault: FaultSignature, check: refusal.Check, text: text}
	case err != nil:
		return nil, &listError{fault: FaultSignature, text: "it cannot be verified"}
	}
	l, err := decodeList(payload)
	if err != nil {
		return nil, &listError{fault: FaultSchema, text: err.Error()}
	}
	return l, nil
}

// decodeList decodes the payload of a list: what encode makes. Its schema is
// closed. The error is fixed text.
func decodeList(payload string) (*list, error) {
	l := &list{}
	var keys string
	var hasRevoked bool
	err := strictjson.Read(payload, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "iss":
				l.issuer, err = r.String()
			case "iat":
				l.issuedAt, err = seconds(r)
			case "exp":
				l.expires, err = seconds(r)
			case "seq":
				l.seq, err = r.Integer()
			case "keys":
				keys, err = r.Raw()
			case "revoked":
				hasRevoked = true
				err = l.readRevoked(r)
			default:
				err = errMember
			}
			return err
		})
	})
	switch {
	case err != nil:
		return nil, err
	case !isName(l.issuer):
		return nil, errors.New("iss is missing or not a name")
	case l.issuedAt.IsZero() || !l.expires.After(l.issuedAt) || l.expires.Sub(l.issuedAt) > MaxListLifetime:
		return nil, errors.New("iat or exp is missing, or exp not within a day after iat")
	case l.seq == 0:
		return nil, errors.New("seq is missing")
	case !hasRevoked:
		return nil, errors.New("revoked is missing")
	}
	// What the array means, and that every key is public and sound, is keyset's.
	set, err := keyset.Parse([]byte(`{"keys":` + keys + `}`))
	if err != nil {
		return nil, errors.New("keys is not an array of sound public keys")
	}
	l.issuer = strings.Clone(l.issuer) // the rest of the document is not to stay in memory
	l.keys = set.Keys()
	if len(l.keys) > MaxKeys {
		return nil, errors.New("there are too many keys")
	}
	return l, nil
}

var errMember = errors.New("a member is not in the schema")

func seconds(r *strictjson.Reader) (time.Time, error) {
	n, err := r.Integer()
	if err == nil && n > maxTime {
		err = strictjson.ErrRange
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(n, 0).UTC(), nil
}

func (l *list) readRevoked(r *strictjson.Reader) error {
	err := r.Object(func(name string) (err error) {
		switch name {
		case "tokens":
			l.tokens, err = readIDs(r)
		case "sessions":
			l.sessions, err = readIDs(r)
		case "subjects":
			l.subjects, err = readSubjects(r)
		default:
			err = errMember
		}
		return err
	})
	if err == nil && (l.tokens == nil || l.sessions == nil || l.subjects == nil) {
		err = errors.New("revoked is not tokens, sessions and subjects")
	}
	return err
}

func readIDs(r *strictjson.Reader) (map[id]struct{}, error) {
	set := map[id]struct{}{}
	return set, r.Array(func(int) error {
		text, err := r.String()
		if err != nil {
			return err
		}
		id, err := parseID(text)
		if err != nil {
			return err
		}
		if _, twice := set[id]; twice {
			return errors.New("an id is listed twice")
		}
		set[id] = struct{}{}
		return nil
	})
}

func readSubjects(r *strictjson.Reader) (map[digest]int64, error) {
	subjects := map[digest]int64{}
	return subjects, r.Object(func(text string) error {
		subject, err := parseDigest(text)
		if err != nil {
			return err
		}
		cutoff, err := seconds(r)
		if err != nil {
			return err
		}
		subjects[subject] = cutoff.Unix()
		return nil
	})
}
