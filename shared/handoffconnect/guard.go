package handoffconnect

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// Guard lets a call through to its method with a grant, or refuses it. It is safe for
// concurrent use.
type Guard struct {
	guard *handoffgrpc.Guard

	mu sync.Mutex
	on map[string]bool // the services that On has guarded
}

// NewGuard returns a guard that refuses every call until Check has succeeded, or an
// error that names the field of config that it refuses.
func NewGuard(config handoffgrpc.Config) (*Guard, error) {
	guard, err := handoffgrpc.NewGuard(config)
	if err != nil {
		return nil, err
	}
	return &Guard{guard: guard, on: map[string]bool{}}, nil
}

// On makes the handler of a service, with the guard before and in it, and returns what
// generated code does: the pattern and the handler for a mux.
//
//	mux.Handle(handoffconnect.On(guard, billingv1connect.NewBillingHandler, impl, options...))
//
// The guard stands inside all interceptors of options.
func On[Service any](
	g *Guard, construct func(Service, ...connect.HandlerOption) (string, http.Handler), impl Service, options ...connect.HandlerOption,
) (pattern string, guarded http.Handler) {
	options = append(slices.Clone(options), connect.WithInterceptors(inside{}))
	pattern, handler := construct(impl, options...)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on[strings.Trim(pattern, "/")] = true
	return pattern, &before{g.guard, handler}
}

// Check opens the guard, if every method that is mounted carries a rule and was made
// with On, or is exempt. Call it when everything is mounted. Its error says what is
// wrong, as that of handoffgrpc.Guard.Check does.
//
// mux is what routes the requests, such as an *http.ServeMux. What it serves is
// found by asking it for each service that is linked into the program.
func (g *Guard) Check(mux interface {
	Handler(*http.Request) (http.Handler, string)
},
) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	services := map[string]grpc.ServiceInfo{}
	var problems []error
	for service := range g.on {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		described, ok := found.(protoreflect.ServiceDescriptor)
		if err != nil || !ok {
			problems = append(problems, errors.New("/"+service+"/ has no descriptor in this program, hence no rules"))
			continue
		}
		services[service] = methodsOf(described)
	}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			if described := file.Services().Get(i); mounted(mux, described) {
				services[string(described.FullName())] = methodsOf(described)
			}
		}
		return true
	})
	return g.guard.CheckServices(services, func(service string) bool { return g.on[service] }, problems...)
}

// mounted reports whether mux serves a method of a service under a pattern that names
// it: one for everything is somebody else's.
func mounted(mux interface {
	Handler(*http.Request) (http.Handler, string)
}, service protoreflect.ServiceDescriptor,
) bool {
	for i := range service.Methods().Len() {
		path := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(i).Name())
		for _, method := range []string{http.MethodPost, http.MethodGet} {
			r, err := http.NewRequest(method, path, nil)
			if err != nil {
				continue
			}
			if _, pattern := mux.Handler(r); strings.Contains(pattern, string(service.FullName())) {
				return true
			}
		}
	}
	return false
}

func methodsOf(service protoreflect.ServiceDescriptor) (info grpc.ServiceInfo) {
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		info.Methods = append(info.Methods, grpc.MethodInfo{
			Name: string(m.Name()), IsClientStream: m.IsStreamingClient(), IsServerStream: m.IsStreamingServer(),
		})
	}
	return info
}

// before verifies a call's token while its request is on the wire.
type before struct {
	guard *handoffgrpc.Guard
	next  http.Handler
}

func (b *before) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call, err := b.guard.Begin(incoming(r), r.URL.Path)
	if err != nil {
		_ = connect.NewErrorWriter().Write(w, r, errorOf(err))
		return
	}
	begun := &begun{call: call, procedure: r.URL.Path}
	b.next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), begunKey{}, begun)))
}

// incoming is what gRPC's context would have of the request: where a token can be, and
// who sends it.
func incoming(r *http.Request) context.Context {
	found := metadata.MD{}
	for _, key := range []string{"authorization", "handoff-token"} {
		for _, key := range []string{key, key + "-bin"} {
			if values := r.Header.Values(key); len(values) > 0 {
				found[key] = values
			}
		}
	}
	from := &peer.Peer{Addr: &net.TCPAddr{}}
	if address, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		from.Addr = net.TCPAddrFromAddrPort(address)
	}
	if r.TLS != nil {
		from.AuthInfo = credentials.TLSInfo{
			State: *r.TLS, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
	}
	return peer.NewContext(metadata.NewIncomingContext(r.Context(), found), from)
}

// begun is a call whose token was verified. It is for one run of one procedure.
type begun struct {
	call      *handoffgrpc.Call
	procedure string
	used      atomic.Bool
}

type begunKey struct{}

// begunOf returns the call that a handler's context is of.
func begunOf(ctx context.Context, procedure string) (*handoffgrpc.Call, error) {
	b, ok := ctx.Value(begunKey{}).(*begun)
	if !ok || b.procedure != procedure || !b.used.CompareAndSwap(false, true) {
		return nil, around()
	}
	return b.call, nil
}
