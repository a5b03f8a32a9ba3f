package serving

import (
	"context"
	"net"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/test/bufconn"
)

// memoryBuffer is how much one end of the in-memory connection may have written
// before the other reads, in bytes.
const memoryBuffer = 64 << 10

// Conn returns a connection into this server that crosses no network, for a part of
// the program that is a client of it, such as its pages. Its calls pass all that
// others' do: the listener of Config.Listener, Tap, the limits, the interceptors
// and the guard. They are answered once Run serves. The caller closes it.
//
// A call counts as that of the client whose address its context's peer has, as the
// context of each request to an HTTPS has one: what is bounded for each network is
// bounded for theirs, and not for all of them as if they were one.
func (s *Server) Conn() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///this-server",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.memory.DialContext(ctx) }),
		grpc.WithTransportCredentials(inMemory{}),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			rise(ctx)
			return invoke(sayClient(ctx), method, req, reply, conn, options...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, of *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
			rise(ctx)
			return open(sayClient(ctx), of, conn, method, options...)
		}))
}

// clientKey is the metadata that says for which client the program makes a call. It
// counts on the in-memory connection, and no handler sees it.
const clientKey = "handoff-client-address"

func sayClient(ctx context.Context) context.Context {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ctx
	}
	tcp, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, clientKey, tcp.AddrPort().String())
}

// forClient gives a call of the in-memory connection the address of the client that it
// is made for. On every other connection the metadata is what anybody can send.
func forClient(ctx context.Context) context.Context {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr != (address{}) {
		return ctx
	}
	said, _ := metadata.FromIncomingContext(ctx) // a copy
	values := said.Get(clientKey)
	if len(values) == 0 {
		return ctx
	}
	said.Delete(clientKey)
	ctx = metadata.NewIncomingContext(ctx, said)
	from, err := netip.ParseAddrPort(values[len(values)-1])
	if err != nil {
		return ctx
	}
	client := *p
	client.Addr = net.TCPAddrFromAddrPort(from)
	return peer.NewContext(ctx, &client)
}

// inMemory is the credentials of the in-memory connection, which nobody else can
// read or write. On the server it demands TLS of every other connection.
type inMemory struct {
	tls credentials.TransportCredentials
}

// within is what is known of an in-memory peer: that it is this program.
type within struct{ credentials.CommonAuthInfo }

func (within) AuthType() string { return "memory" }

func known() within {
	return within{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
}

func (c inMemory) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, known(), nil
}

// memory is the listener of Conn.
type memory struct{ *bufconn.Listener }

// Accept waits for the next connection, and gives it an address by which
// ServerHandshake knows it, also if it is wrapped on the way there.
func (m memory) Accept() (net.Conn, error) {
	conn, err := m.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return inside{conn}, nil
}

type inside struct{ net.Conn }

func (inside) RemoteAddr() net.Addr { return address{} }

// address is that of an in-memory peer. No connection of a network has it.
type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return "this program" }

func (c inMemory) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if conn.RemoteAddr() == (address{}) {
		return conn, known(), nil
	}
	return c.tls.ServerHandshake(conn)
}

func (c inMemory) Info() credentials.ProtocolInfo {
	if c.tls != nil {
		return c.tls.Info()
	}
	return credentials.ProtocolInfo{SecurityProtocol: "memory"}
}

func (c inMemory) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is of no use: there is no name.
func (c inMemory) OverrideServerName(string) error { return nil }
