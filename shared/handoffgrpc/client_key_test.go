package handoffgrpc_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

var nightly = assertion.Params{Client: "c-1", Audience: issuer}

// clientSigner signs with a key that tests have in the open.
type clientSigner struct{ key *forge.Key }

func (s clientSigner) Key() handoff.Key { return s.key.Public }
func (s clientSigner) Sign(_ context.Context, input []byte) ([]byte, error) {
	return s.key.Sign(string(input)), nil
}

// Client is an assertion.Clients'.
func (s clientSigner) Client(context.Context, string) (string, handoff.Key, error) {
	return nightly.Client, s.key.Public, nil
}

// flaky is an issuer that spends an assertion, and then fails, until a call is the last.
type flaky struct {
	handoffv1.UnimplementedHandoffServiceServer
	t        *testing.T
	verifier *assertion.Verifier
	clients  assertion.Clients
	fails    int

	mu    sync.Mutex
	spent []string // by jti
}

func (f *flaky) IssueHandoff(ctx context.Context, _ *handoffv1.IssueHandoffRequest) (*handoffv1.IssueHandoffResponse, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return nil, status.Errorf(codes.Internal, "%d authorizations", len(values))
	}
	claims, err := f.verifier.Verify(ctx, strings.TrimPrefix(values[0], "Bearer "), f.clients)
	if err != nil {
		return nil, handoffgrpc.StatusOf(err).Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.spent, claims.ID) {
		return nil, handoffgrpc.StatusOf(&handoff.Refusal{Reason: handoff.ReasonClientInvalid, Check: "client.spent"}).Err()
	}
	f.spent = append(f.spent, claims.ID)
	if len(f.spent) <= f.fails {
		return nil, status.Error(codes.Unavailable, "try again")
	}
	return &handoffv1.IssueHandoffResponse{}, nil
}

// K02: what gRPC itself repeats is signed again each time: a spent assertion is never sent
// twice, for any caller.
func TestK02EachAttemptIsSigned(t *testing.T) {
	t.Parallel()
	key := clientSigner{forge.NewKey(handoff.EdDSA)}
	verifier, err := assertion.NewVerifier(assertion.VerifierConfig{Audience: issuer})
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{t: t, verifier: verifier, clients: key, fails: 3}
	client, server := tlsPair()
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(server)))
	handoffv1.RegisterHandoffServiceServer(s, f)
	listener := start(t, s)
	signs, err := handoffgrpc.ClientKey(key, nightly)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///billing.example",
		grpc.WithTransportCredentials(credentials.NewTLS(client)), grpc.WithPerRPCCredentials(signs),
		grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{"service": "handoff.v1.HandoffService"}], "retryPolicy": {
			"maxAttempts": 4, "initialBackoff": "0.001s", "maxBackoff": "0.002s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := handoffv1.NewHandoffServiceClient(conn).IssueHandoff(t.Context(), &handoffv1.IssueHandoffRequest{}); err != nil {
		t.Errorf("after %d attempts: %v", len(f.spent), err)
	}
	if len(f.spent) != 4 {
		t.Errorf("%d attempts arrived, want 4", len(f.spent))
	}
}

// An assertion is a secret, as a token is.
func TestClientKeyIsForPrivateConnections(t *testing.T) {
	key := clientSigner{forge.NewKey(handoff.EdDSA)}
	signs, err := handoffgrpc.ClientKey(key, nightly)
	if err != nil {
		t.Fatal(err)
	}
	if !signs.RequireTransportSecurity() {
		t.Error("an insecure channel is not refused")
	}
	for _, l := range []credentials.SecurityLevel{credentials.PrivacyAndIntegrity, credentials.IntegrityOnly, credentials.NoSecurity, credentials.InvalidSecurityLevel} {
		ctx := credentials.NewContextWithRequestInfo(t.Context(), credentials.RequestInfo{Method: handoffv1.HandoffService_IssueHandoff_FullMethodName, AuthInfo: level{credentials.CommonAuthInfo{SecurityLevel: l}}})
		md, err := signs.GetRequestMetadata(ctx)
		if sent := len(md) == 1 && err == nil; sent != (l == credentials.PrivacyAndIntegrity) || !sent && status.Code(err) != codes.Unauthenticated {
			t.Errorf("%v: %v, %v", l, md, err)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v %s", signs, signs, signs, signs); strings.Count(text, "client key") != 4 || len(text) > 60 {
		t.Errorf("it prints as %s", text)
	}
}

// signatures counts what a key signs.
type signatures struct {
	clientSigner
	n atomic.Int64
}

func (s *signatures) Sign(ctx context.Context, input []byte) ([]byte, error) {
	s.n.Add(1)
	return s.clientSigner.Sign(ctx, input)
}

// K01: nobody but the issuer's IssueHandoff gets an assertion: who serves another method on
// the connection could ask for a handoff with it.
func TestK01ClientKeyIsForOneMethod(t *testing.T) {
	key := &signatures{clientSigner: clientSigner{forge.NewKey(handoff.EdDSA)}}
	signs, err := handoffgrpc.ClientKey(key, nightly)
	if err != nil {
		t.Fatal(err)
	}
	const issue = handoffv1.HandoffService_IssueHandoff_FullMethodName
	for _, method := range []string{
		"", "/", issue + "/", strings.TrimPrefix(issue, "/"), strings.ToLower(issue), "/evil.v1.HandoffService/IssueHandoff",
		handoffv1.HandoffService_RevokeHandoff_FullMethodName, handoffv1.HandoffService_IssueVisit_FullMethodName,
		handoffv1.GrantService_CreateGrant_FullMethodName, "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	} {
		ctx := credentials.NewContextWithRequestInfo(t.Context(), credentials.RequestInfo{
			Method: method, AuthInfo: level{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}},
		})
		// What gRPC says of the URI is the service's, and is not looked at.
		md, err := signs.GetRequestMetadata(ctx, "https://shop.example/handoff.v1.HandoffService")
		if len(md) != 0 || status.Code(err) != codes.Unauthenticated {
			t.Errorf("%q: %v, %v", method, md, err)
		}
	}
	if n := key.n.Load(); n != 0 {
		t.Errorf("%d assertions were signed", n)
	}
	client, server := tlsPair()
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(server)))
	served := &flaky{t: t}
	handoffv1.RegisterHandoffServiceServer(s, served)
	listener := start(t, s)
	conn, err := grpc.NewClient("passthrough:///billing.example", grpc.WithTransportCredentials(credentials.NewTLS(client)), grpc.WithPerRPCCredentials(signs),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = handoffv1.NewHandoffServiceClient(conn).RevokeHandoff(t.Context(), &handoffv1.RevokeHandoffRequest{})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), issue) || key.n.Load() != 0 {
		t.Errorf("another method, over a connection: %v; %d are signed", err, key.n.Load())
	}
}

func TestClientKeyRefuses(t *testing.T) {
	key := clientSigner{forge.NewKey(handoff.EdDSA)}
	if _, err := handoffgrpc.ClientKey(nil, nightly); err == nil {
		t.Error("no key is accepted")
	}
	for _, params := range []assertion.Params{{Client: "c-1"}, {Audience: issuer}} {
		if _, err := handoffgrpc.ClientKey(key, params); err == nil {
			t.Errorf("%+v is accepted", params)
		}
	}
}
