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

	"github.com/handoff-auth/handoff/shared/sealed"
)

// Token sends a handoff token with one call. On a connection that does not say
// that it keeps privacy and integrity, and with a raw that cannot be a token, the
// call fails with codes.Unauthenticated before anything is sent.
//
// A token is spent by its first use: give each call its own, and configure no
// retries for the method.
func Token(raw string) grpc.CallOption {
	return grpc.PerRPCCredentials(token{authorization, scheme, raw})
}

// HandoffToken is Token for a server whose Config.Metadata is "handoff-token": the
// call's authorization is free for something else.
func HandoffToken(raw string) grpc.CallOption {
	return grpc.PerRPCCredentials(token{handoffToken, "", raw})
}

// LocalToken is Token for a server on this machine that speaks no TLS, such as one in
// development, or one behind a sidecar that ends TLS. The channel must have the
// credentials of google.golang.org/grpc/credentials/local, which connect to loopback
// addresses and Unix sockets and to nothing else. Over loopback other users of the
// machine may be able to listen; over a Unix socket they are not, and Token does.
func LocalToken(raw string) grpc.CallOption {
	return grpc.PerRPCCredentials(localToken{token{authorization, scheme, raw}})
}

// localToken is a token that may go over a connection that does not leave the machine.
type localToken struct{ token }

// RequireTransportSecurity leaves it to GetRequestMetadata.
func (localToken) RequireTransportSecurity() bool { return false }

// GetRequestMetadata returns the token for a connection that package local has made.
func (t localToken) GetRequestMetadata(ctx context.Context, uris ...string) (map[string]string, error) {
	info, _ := credentials.RequestInfoFromContext(ctx)
	if info.AuthInfo == nil || info.AuthInfo.AuthType() != "local" {
		return t.token.GetRequestMetadata(ctx, uris...)
	}
	return t.metadata()
}

// token is a credentials.PerRPCCredentials.
type token struct{ key, scheme, raw string }

// RequireTransportSecurity has gRPC refuse an insecure channel.
func (token) RequireTransportSecurity() bool { return true }

// GetRequestMetadata returns the token for a connection that keeps it secret.
func (t token) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if !private(ctx) {
		return nil, status.Error(codes.Unauthenticated, "a handoff token is sent over a private connection alone")
	}
	return t.metadata()
}

// metadata returns what brings the token, if it can be one.
func (t token) metadata() (map[string]string, error) {
	if t.raw == "" || len(t.raw) > sealed.MaxLength || strings.Trim(t.raw, tokenCharacters) != "" {
		return nil, status.Error(codes.Unauthenticated, "what was to be sent is not a handoff token")
	}
	return map[string]string{t.key: t.scheme + t.raw}, nil
}

// private reports whether the connection of a call keeps what is sent secret.
// credentials.CheckSecurityLevel is content when a connection does not say how secure
// it is. This is not.
func private(ctx context.Context) bool {
	info, _ := credentials.RequestInfoFromContext(ctx)
	common, ok := info.AuthInfo.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	})
	return ok && common.GetCommonAuthInfo().SecurityLevel == credentials.PrivacyAndIntegrity
}

// tokenCharacters are those of a compact JWS (RFC 7515 section 7.1), and of a sealed
// token.
const tokenCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// Format keeps the token out when its call option is printed.
func (token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "handoff token") }
