package handoffgrpc

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Checks of a call's metadata.
const (
	CheckMetadataMissing handoff.Check = "metadata.missing" // no authorization at all
	CheckMetadataBinary  handoff.Check = "metadata.binary"  // authorization-bin
	CheckMetadataCount   handoff.Check = "metadata.count"   // not exactly one authorization
	CheckMetadataScheme  handoff.Check = "metadata.scheme"  // not "Bearer" and one space
)

const scheme = "Bearer "

// bearer returns the token of an incoming call: what follows "Bearer " in the one
// value of `authorization`. It may be anything.
//
// The scheme is compared byte for byte, though RFC 9110 section 11.1 would have
// its case ignored: with one spelling, nothing between the client and here can
// read another token than this server does.
func bearer(ctx context.Context) (raw string, err error) {
	if metadata.ValueFromIncomingContext(ctx, "authorization-bin") != nil {
		return "", malformed(CheckMetadataBinary, "authorization-bin is not where a token goes")
	}
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch {
	case len(values) == 0:
		return "", &handoff.Refusal{
			Reason: handoff.ReasonTokenMissing, Check: CheckMetadataMissing, Detail: "no authorization in the metadata",
		}
	case len(values) > 1:
		return "", malformed(CheckMetadataCount, "more than one authorization")
	}
	raw, ok := strings.CutPrefix(values[0], scheme)
	if !ok {
		return "", malformed(CheckMetadataScheme, `the authorization does not begin with "Bearer "`)
	}
	return raw, nil
}

func malformed(check handoff.Check, detail string) error {
	return &handoff.Refusal{Reason: handoff.ReasonTokenInvalid, Check: check, Detail: detail}
}
