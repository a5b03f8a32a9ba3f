package trust

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/ident"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// open returns the list that raw is, if one of the trust keys signed it and its
// form is right. Whether it is a list to rely on now is the follower's to say.
// What is long and not a list is refused at the price of looking through it once.
func open(ctx context.Context, raw string, trustKeys handoff.KeySource) (*list, error) {
	if len(raw) <= profile.MaxLength && strings.IndexByte(raw[:min(len(raw), maxHeader)], '.') < 0 {
		return nil, &listError{fault: FaultSignature, check: "token.parts", text: "the header is missing or too long"}
	}
	payload, _, err := profile.Open(ctx, raw, trustKeys)
	var refusal *handoff.Refusal
	switch {
	case errors.As(err, &refusal):
		text := refusal.Detail
		if refusal.Check == "key.unknown" { // whose text is about handoff tokens
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

// decodeList decodes the payload of a statement: what encode makes. Its schema is
// closed. The error is fixed text.
func decodeList(payload string) (*list, error) {
	l := &list{}
	var keys string
	var hasDigest bool
	err := strictjson.Read(payload, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "iss":
				l.issuer, err = r.String()
			case "iat":
				l.issuedAt, err = r.Time(time.Second)
			case "exp":
				l.expires, err = r.Time(time.Second)
			case "seq":
				l.seq, err = r.Integer()
			case "keys":
				keys, err = r.Raw()
			case "revoked_sha256":
				hasDigest = true
				l.digest, err = readDigest(r)
			default:
				err = errMember
			}
			return err
		})
	})
	switch {
	case err != nil:
		return nil, err
	case !ident.Name(l.issuer):
		return nil, errors.New("iss is missing or not a name")
	case l.issuedAt.IsZero() || !l.expires.After(l.issuedAt) || l.expires.Sub(l.issuedAt) > MaxListLifetime:
		return nil, errors.New("iat or exp is missing, or exp not within a day after iat")
	case l.seq == 0:
		return nil, errors.New("seq is missing")
	case !hasDigest:
		return nil, errors.New("revoked_sha256 is missing")
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

func readDigest(r *strictjson.Reader) (digest, error) {
	text, err := r.String()
	if err != nil {
		return digest{}, err
	}
	return parseDigest(text)
}

var errMember = errors.New("a member is not in the schema")
