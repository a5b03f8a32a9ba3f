package pair

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/health" // lets the client watch it
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// Client is a user's program: it talks to both servers, and is all that they
// have in common but SERVER1's public key.
type Client struct {
	Sessions server1v1.SessionServiceClient
	Handoffs handoffv1.HandoffServiceClient
	Grants   handoffv1.GrantServiceClient
	Invoices server2v1.InvoiceServiceClient

	connections []*grpc.ClientConn
}

// Dial returns a client of the pair at these addresses, whose certificates the
// authority in the file ca has signed.
func Dial(server1, server2, ca string) (*Client, error) {
	return DialAs(server1, server2, ca)
}

// DialAs is Dial of a client that has a certificate of its own, if one is given.
func DialAs(server1, server2, ca string, own ...tls.Certificate) (*Client, error) {
	transport, err := trustIn(ca, own...)
	if err != nil {
		return nil, err
	}
	one, err := grpc.NewClient(server1, transport)
	if err != nil {
		return nil, err
	}
	two, err := grpc.NewClient(server2, transport)
	if err != nil {
		return nil, err
	}
	return newClient(one, two), nil
}

// DialReplicas returns a client that takes the servers at these addresses in
// turns, those that say they are serving.
func DialReplicas(server1, server2 []*Process, ca string) (*Client, error) {
	transport, err := trustIn(ca)
	if err != nil {
		return nil, err
	}
	one, err := balance(server1, transport)
	if err != nil {
		return nil, err
	}
	two, err := balance(server2, transport)
	if err != nil {
		return nil, err
	}
	return newClient(one, two), nil
}

// inTurns has no retryPolicy: a handoff that may have been spent is not for gRPC
// to try again.
const inTurns = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`

func balance(replicas []*Process, transport grpc.DialOption) (*grpc.ClientConn, error) {
	state := resolver.State{}
	for _, replica := range replicas {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: replica.Address})
	}
	addresses := manual.NewBuilderWithScheme("replicas")
	addresses.InitialState(state)
	return grpc.NewClient("replicas:///localhost", transport, grpc.WithResolvers(addresses), grpc.WithDefaultServiceConfig(inTurns))
}

// NewCertificate makes a certificate for a client, which nobody but the client has
// signed.
func NewCertificate() (tls.Certificate, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func trustIn(ca string, own ...tls.Certificate) (grpc.DialOption, error) {
	roots, err := vetted.File{Path: ca, Max: 1 << 20}.Roots()
	if err != nil {
		return nil, err
	}
	return grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, Certificates: own})), nil
}

func newClient(one, two *grpc.ClientConn) *Client {
	return &Client{
		Sessions:    server1v1.NewSessionServiceClient(one),
		Handoffs:    handoffv1.NewHandoffServiceClient(one),
		Grants:      handoffv1.NewGrantServiceClient(one),
		Invoices:    server2v1.NewInvoiceServiceClient(two),
		connections: []*grpc.ClientConn{one, two},
	}
}

// Close closes the client's connections.
func (c *Client) Close() {
	for _, connection := range c.connections {
		_ = connection.Close()
	}
}

// Ready waits until both say that they are serving: of several, one of each.
func (c *Client) Ready(ctx context.Context) error {
	for _, connection := range c.connections {
		if err := waitServing(ctx, connection); err != nil {
			return fmt.Errorf("%s is not ready: %w", connection.Target(), err)
		}
	}
	return nil
}

// waitServing follows a server's own word for its health.
func waitServing(ctx context.Context, connection *grpc.ClientConn) error {
	stream, err := healthpb.NewHealthClient(connection).Watch(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if response.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
	}
}

// SignIn returns a new session of the user's.
func (c *Client) SignIn(ctx context.Context, user, password string) (*server1v1.SignInResponse, error) {
	return c.Sessions.SignIn(ctx, &server1v1.SignInRequest{UserName: user, Password: password})
}

// Session presents a session to SERVER1. Session and token travel alike, and
// over TLS alone.
func Session(id string) grpc.CallOption { return handoffgrpc.Token(id) }

// Issue asks SERVER1 for a handoff of one call. A lifetime of zero leaves it to
// SERVER1.
func (c *Client) Issue(
	ctx context.Context, session, audience, method string, request proto.Message, lifetime time.Duration,
) (*handoffv1.IssueHandoffResponse, error) {
	packed, err := anypb.New(request)
	if err != nil {
		return nil, err
	}
	issue := &handoffv1.IssueHandoffRequest{Audience: audience, Method: method, Request: packed}
	if lifetime != 0 {
		issue.Lifetime = durationpb.New(lifetime)
	}
	return c.Handoffs.IssueHandoff(ctx, issue, Session(session))
}

// Export returns the payments that SERVER2 streams.
func (c *Client) Export(ctx context.Context, token string, request *server2v1.ExportPaymentsRequest) ([]*server2v1.Payment, error) {
	stream, err := c.Invoices.ExportPayments(ctx, request, handoffgrpc.Token(token))
	if err != nil {
		return nil, err
	}
	var payments []*server2v1.Payment
	for {
		response, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return payments, nil
			}
			return payments, err
		}
		payments = append(payments, response.GetPayment())
	}
}

// NewRequestID returns a random UUID (RFC 9562, version 4), as SERVER2 asks for one
// with each payment.
func NewRequestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
