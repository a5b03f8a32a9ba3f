package forge

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// VisitDetails returns the only element of authorization_details of a visit.
func VisitDetails(methods ...string) Object {
	quoted := make([]string, len(methods))
	for i, method := range methods {
		quoted[i] = Quote(method)
	}
	return Object{{"type", `"grpc_visit"`}, {"actions", "[" + strings.Join(quoted, ",") + "]"}}
}

// GoodVisit returns a visit that is to be accepted, with an id of its own, for
// methods in place of the operation of p. It needs a Session.
func GoodVisit(p Params, methods ...string) Token {
	return Good(p).WithHeader("typ", `"handoff-visit+jwt"`).WithDetails(VisitDetails(methods...))
}

// VisitAttacks returns the hostile visits, each made from a good one. Their checks are
// those of a verifier that takes both kinds: to one that takes only the other, `typ`
// says enough.
func VisitAttacks() []Hostile {
	all := []Hostile{
		profile("J10", "a visit with the typ of a handoff", "claim.authorization_details", header("typ", `"handoff+jwt"`)),
		profile("J10", "a handoff with the typ of a visit", "claim.authorization_details", func(t Token) string {
			return t.WithDetails(Details(handoff.Operation{Method: "/a.v1.B/C"})).Compact()
		}),
		profile("J10", "a visit without a session", "claim.sid", func(t Token) string { return t.WithoutClaim("sid").Compact() }),
		profile("J10", "a visit with an empty session", "claim.sid", claim("sid", `""`)),
		profile("J10", "a visit without details", "claim.authorization_details", func(t Token) string { return t.WithoutClaim("authorization_details").Compact() }),
		profile("J10", "a visit with a claim too many", "payload.members", claim("admin", "true")),
		profile("J10", "a visit with its actions twice", "payload.json", claim("authorization_details", `[{"type":"grpc_visit","actions":["/a.v1.B/C"],"actions":["/a.v1.B/C"]}]`)),
		{ID: "J10", Name: "a visit of an hour and a second", Check: "verify.lifetime", Reason: handoff.ReasonLifetimeTooLong, Forge: lasts(3601)},
		{ID: "J10", Name: "a visit that has expired", Check: "verify.exp", Reason: handoff.ReasonTokenExpired, Forge: func(t Token) string {
			iat := seconds(t)
			return t.WithClaim("iat", strconv.FormatInt(iat-900, 10)).WithClaim("exp", strconv.FormatInt(iat, 10)).Compact()
		}},
		{ID: "J10", Name: "a visit at another service", Check: "verify.aud", Reason: handoff.ReasonAudienceMismatch, Forge: claim("aud", `"https://other.example"`)},
		{ID: "J10", Name: "a visit of another issuer", Check: "verify.iss", Reason: handoff.ReasonIssuerMismatch, Forge: claim("iss", `"https://stranger.example"`)},
	}
	for _, typ := range []string{"visit+jwt", "handoff-visit+JWT", "application/handoff-visit+jwt", "handoff-trust+jwt", "at+jwt", "JWT"} {
		all = append(all, before("J10", "a visit with the typ "+typ, "header.typ", header("typ", Quote(typ))))
	}
	const method = `"/a.v1.B/C"`
	many := make([]string, 33)
	for i := range many {
		many[i] = fmt.Sprintf(`"/a.v1.B/C%d"`, i)
	}
	for name, details := range map[string]string{
		"no element":           `[]`,
		"two elements":         `[{"type":"grpc_visit","actions":[` + method + `]},{"type":"grpc_visit","actions":[` + method + `]}]`,
		"no type":              `[{"actions":[` + method + `]}]`,
		"another type":         `[{"type":"grpc_call","actions":[` + method + `]}]`,
		"no actions":           `[{"type":"grpc_visit"}]`,
		"empty actions":        `[{"type":"grpc_visit","actions":[]}]`,
		"actions that are one": `[{"type":"grpc_visit","actions":` + method + `}]`,
		"33 actions":           `[{"type":"grpc_visit","actions":[` + strings.Join(many, ",") + `]}]`,
		"an action twice":      `[{"type":"grpc_visit","actions":[` + method + `,` + method + `]}]`,
		"an action for all":    `[{"type":"grpc_visit","actions":["/a.v1.B/*"]}]`,
		"an action null":       `[{"type":"grpc_visit","actions":[null]}]`,
		"fields":               `[{"type":"grpc_visit","actions":[` + method + `],"fields":{}}]`,
		"a digest":             `[{"type":"grpc_visit","actions":[` + method + `],"fields_sha256":"` + strings.Repeat("A", 43) + `"}]`,
		"a location":           `[{"type":"grpc_visit","actions":[` + method + `],"locations":[]}]`,
	} {
		all = append(all, profile("J10", "a visit with "+name, "claim.authorization_details", claim("authorization_details", details)))
	}
	return all
}

// seconds returns the token's iat.
func seconds(t Token) int64 {
	n, err := strconv.ParseInt(t.Payload.Get("iat"), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// lasts is the token with a lifetime of so many seconds.
func lasts(life int64) func(Token) string {
	return func(t Token) string {
		return t.WithClaim("exp", strconv.FormatInt(seconds(t)+life, 10)).Compact()
	}
}
