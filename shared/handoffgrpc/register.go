package handoffgrpc

import (
	"net"
	"reflect"
	"slices"

	"google.golang.org/grpc"
)

// On returns what the guarded services of s are registered with:
//
//	billingv1.RegisterBillingServer(guard.On(s), impl)
//
// Every handler of a service is registered behind the guard, inside all
// interceptors of s, so that no server option can be forgotten or put in the wrong
// order. A service that is exempt may be registered either way. On(s) refuses its
// calls until Check has succeeded.
func (g *Guard) On(s *grpc.Server) grpc.ServiceRegistrar { return registrar{g, s} }

// registrar is a grpc.ServiceRegistrar.
type registrar struct {
	guard  *Guard
	server *grpc.Server
}

// RegisterService registers a copy of desc whose handlers are guarded.
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	guarded, prefix := *desc, "/"+desc.ServiceName+"/"
	guarded.Methods, guarded.Streams = slices.Clone(desc.Methods), slices.Clone(desc.Streams)
	for i, method := range guarded.Methods {
		guarded.Methods[i].Handler = r.guard.unary(prefix+method.MethodName, method.Handler)
	}
	for i, stream := range guarded.Streams {
		guarded.Streams[i].Handler = r.guard.stream(prefix+stream.StreamName, stream.Handler)
	}
	r.server.RegisterService(&guarded, impl) // ends the program if it is registered already
	r.guard.guarded.Store(registration{r.server, desc.ServiceName}, true)
}

// registration is one service of one server.
type registration struct {
	server  *grpc.Server
	service string
}

// isGuarded reports whether a service of s was registered with On.
func (g *Guard) isGuarded(s *grpc.Server, service string) bool {
	_, ok := g.guarded.Load(registration{s, service})
	return ok
}

// seal ends the registration of services on s: from now on gRPC ends the program
// that registers one. It serves a listener that is closed already.
func seal(s *grpc.Server) { _ = s.Serve(closed{}) }

// closed is a net.Listener.
type closed struct{}

func (closed) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (closed) Close() error              { return nil }
func (closed) Addr() net.Addr            { return &net.UnixAddr{Net: "unix"} }

// unknownHandler reports whether s has a grpc.UnknownServiceHandler, which runs
// for every method that nobody has registered. known is false with a version of
// grpc-go that does not show it.
func unknownHandler(s *grpc.Server) (has, known bool) {
	options := reflect.ValueOf(s).Elem().FieldByName("opts")
	if options.Kind() != reflect.Struct {
		return false, false
	}
	handler := options.FieldByName("unknownStreamDesc")
	if handler.Kind() != reflect.Pointer {
		return false, false
	}
	return !handler.IsNil(), true
}
