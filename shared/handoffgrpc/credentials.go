package handoffgrpc

import (
	"context"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Token sends a handoff token with one call. On a connection that does not say
// that it keeps privacy and integrity, and with a raw that cannot be a token, the
// call fails with codes.Unauthenticated before anything is sent.
//
// A token is spent by its first use: give each call its own, and configure no
// retries for the method.
func Token(raw string) grpc.CallOption { return grpc.PerRPCCredentials(token{raw}) }

// token is a credentials.PerRPCCredentials.
type token struct{ raw string }

// RequireTransportSecurity has gRPC refuse an insecure channel.
func (token) RequireTransportSecurity() bool { return true }

// GetRequestMetadata returns the token for a connection that keeps it secret.
func (t token) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	// credentials.CheckSecurityLevel is content when a connection does not say
	// how secure it is. A token is not.
	info, _ := credentials.RequestInfoFromContext(ctx)
	common, ok := info.AuthInfo.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	})
	if !ok || common.GetCommonAuthInfo().SecurityLevel != credentials.PrivacyAndIntegrity {
		return nil, status.Error(codes.Unauthenticated, "a handoff token is sent over a private connection alone")
	}
	if t.raw == "" || len(t.raw) > handoff.TokenProfile().MaxLength || strings.Trim(t.raw, tokenCharacters) != "" {
		return nil, status.Error(codes.Unauthenticated, "what was to be sent is not a handoff token")
	}
	return map[string]string{"authorization": scheme + t.raw}, nil
}

// tokenCharacters are those of a compact JWS (RFC 7515 section 7.1).
const tokenCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// Format keeps the token out of whatever prints its call option.
func (token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "handoff token") }
