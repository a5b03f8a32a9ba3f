package handoffgrpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoff"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// ClientKey returns credentials with which an API client calls its issuer:
//
//	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(tls), grpc.WithPerRPCCredentials(client))
//
// Each attempt of each call gets an assertion of its own, so that a retry, by gRPC's
// service config too, never sends one that is spent. It is for the one method that takes
// an assertion, HandoffService's IssueHandoff: any other call on the connection fails with
// codes.Unauthenticated before anything is signed, since its server could ask for a
// handoff with what it was sent. So does a call on a connection that does not say that it
// keeps privacy and integrity. The error names the parameter that is refused.
func ClientKey(key handoff.Signer, params assertion.Params) (credentials.PerRPCCredentials, error) {
	if key == nil {
		return nil, errors.New("handoffgrpc.ClientKey: a key is required")
	}
	if err := params.Check(); err != nil {
		return nil, err
	}
	return clientKey{key, params}, nil
}

// clientKey is a credentials.PerRPCCredentials, which gRPC asks for each attempt.
type clientKey struct {
	key    handoff.Signer
	params assertion.Params
}

// RequireTransportSecurity has gRPC refuse an insecure channel.
func (clientKey) RequireTransportSecurity() bool { return true }

// GetRequestMetadata signs for one attempt.
func (c clientKey) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if !private(ctx) {
		return nil, status.Error(codes.Unauthenticated, "an assertion is sent over a private connection alone")
	}
	if asked, _ := credentials.RequestInfoFromContext(ctx); asked.Method != handoffv1.HandoffService_IssueHandoff_FullMethodName {
		return nil, status.Error(codes.Unauthenticated, "a client's assertion is for "+handoffv1.HandoffService_IssueHandoff_FullMethodName+" only: make other calls on another connection")
	}
	raw, err := assertion.Sign(ctx, c.key, c.params)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "the assertion could not be signed: "+err.Error())
	}
	return map[string]string{"authorization": scheme + raw}, nil
}

// Format keeps the key out when the credentials are printed.
func (clientKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "client key") }
