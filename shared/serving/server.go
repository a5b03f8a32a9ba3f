package serving

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"net"
	"slices"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"github.com/handoff-auth/handoff/shared/internal/gate"
)

// Server is one gRPC server and, if it is asked for, the listener of its
// metrics. Register services on GRPC, then Run it, once.
type Server struct {
	config Config
	pair   *certificate
	tls    *tls.Config // of the gRPC server
	grpc   *grpc.Server
	memory memory // the listener of Conn
	health *grpchealth.Server
	panics prometheus.Counter
	admin  *admin                  // nil: no metrics
	calls  *grpcprom.ServerMetrics // nil: no metrics

	conditions *prometheus.GaugeVec

	open                    *gate.Connections // of listener
	listener, adminListener net.Listener      // nil: not open

	long  map[string]long // by method; set by Run, before the first call
	ready map[string]bool // by condition: what it was when last asked

	// watching ends when the server begins to drain.
	watching   context.Context
	endWatches context.CancelFunc
}

// New returns a server that has opened no port yet. What is wrong with a flag is
// a *SettingError.
func New(config Config) (*Server, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	if encoding.GetCompressor("gzip") != nil {
		return nil, errors.New("a gzip compressor is linked: a small request could unpack to a large one")
	}
	var err error
	if config.MaxConnections, err = fitConnections(config.MaxConnections, gate.OpenFiles(), config.Log); err != nil {
		return nil, err
	}
	pair, err := loadCertificate(config.TLSCert, config.TLSKey, config.Log)
	if err != nil {
		return nil, err
	}
	s := &Server{
		config: config,
		pair:   pair,
		memory: memory{bufconn.Listen(memoryBuffer)},
		health: grpchealth.NewServer(),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "grpc_server_panics_total", Help: "Panics of handlers and interceptors that were recovered.",
		}),
		conditions: newConditions(config.Ready),

		open:  gate.New(config.MaxConnections),
		ready: map[string]bool{},
	}
	s.watching, s.endWatches = context.WithCancel(context.Background())
	if config.Metrics != "" {
		s.calls = grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram())
		registry, err := s.newRegistry(s.calls)
		if err != nil {
			return nil, err
		}
		if s.admin, err = s.newAdmin(registry); err != nil {
			return nil, err
		}
	}
	s.tls = pair.grpcConfig(config.ClientCerts)
	s.grpc = s.newGRPC()
	return s, nil
}

// newGRPC returns the gRPC server, with nothing registered yet but health and, if it is
// asked for, reflection.
func (s *Server) newGRPC() *grpc.Server {
	unary, stream := s.interceptors()
	options := append(limits(),
		grpc.Creds(inMemory{credentials.NewTLS(s.tls)}),
		grpc.InTapHandle(s.begin),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
	)
	if s.config.Stats != nil {
		options = append(options, grpc.StatsHandler(s.config.Stats))
	}
	server := grpc.NewServer(options...)
	healthpb.RegisterHealthServer(server, health{s.health})
	if s.config.Reflection {
		reflection.Register(server) // v1, and v1alpha for grpcurl before 1.8.8, as Debian has it
	}
	return server
}

// GRPC returns the server to register services on, before Run.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// GRPCTLS returns that of the gRPC server, which is not to be changed.
func (s *Server) GRPCTLS() *tls.Config { return s.tls }

// TLS returns what another listener of the program needs to serve these protocols
// (RFC 7301) with the server's certificate, as it changes: TLS 1.3 alone.
func (s *Server) TLS(protocols ...string) *tls.Config {
	config := s.pair.tlsConfig()
	config.NextProtos = protocols
	return config
}

// gate opens a port whose open connections are those. A port that cannot be opened is
// a *SettingError.
func (s *Server) gate(setting, address string, open *gate.Connections) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &SettingError{setting, err}
	}
	return open.Listener(listener, s.crowded), nil
}

// crowded logs that there is too little room for connections.
func (s *Server) crowded(idleClosed, refused int, last net.Addr) {
	s.config.Log.Warn("as many connections are open as --max-connections allows, in all or from one network: idle ones are closed for new ones, and others refused",
		"idle_closed", idleClosed, "refused", refused, "last", last.String())
}

// interceptors returns both chains, from the outermost to the program's own.
func (s *Server) interceptors() ([]grpc.UnaryServerInterceptor, []grpc.StreamServerInterceptor) {
	recoverer := recovery.WithRecoveryHandlerContext(s.recovered)
	unary := []grpc.UnaryServerInterceptor{recovery.UnaryServerInterceptor(recoverer)}
	stream := []grpc.StreamServerInterceptor{recovery.StreamServerInterceptor(recoverer)}
	if s.calls != nil {
		unary = append(unary, s.calls.UnaryServerInterceptor())
		stream = append(stream, s.calls.StreamServerInterceptor())
	}
	logger := logging.LoggerFunc(func(ctx context.Context, level logging.Level, text string, fields ...any) {
		if s.isAudited(ctx) && succeeded(fields) {
			level = logging.LevelDebug
		}
		s.config.Log.Log(ctx, slog.Level(level), text, fields...)
	})
	options := []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall), // never the payloads
		logging.WithDurationField(logging.DurationToDurationField),
		logging.WithDisableLoggingFields(logging.SystemTag[0], logging.ComponentFieldKey, logging.MethodTypeFieldKey),
	}
	notLibrarys := selector.MatchFunc(func(_ context.Context, call interceptors.CallMeta) bool {
		return !libraryOwn(call.FullMethod())
	})
	unary = append(unary,
		selector.UnaryServerInterceptor(logging.UnaryServerInterceptor(logger, options...), notLibrarys),
		publicUnary,
		recovery.UnaryServerInterceptor(recoverer))
	stream = append(stream,
		selector.StreamServerInterceptor(logging.StreamServerInterceptor(logger, options...), notLibrarys),
		publicStream,
		recovery.StreamServerInterceptor(recoverer),
		s.boundWatches)
	return append(unary, s.config.Unary...), append(stream, s.config.Stream...)
}

// isAudited reports whether the call of ctx has a line of the program's own where it
// succeeds.
func (s *Server) isAudited(ctx context.Context) bool {
	method, ok := grpc.Method(ctx)
	return ok && slices.Contains(s.config.Audited, method)
}

// succeeded reports whether a call's line says OK.
func succeeded(fields []any) bool {
	i := slices.Index(fields, any("grpc.code"))
	return i >= 0 && i+1 < len(fields) && fields[i+1] == any("OK")
}

// Run opens the ports and serves until ctx is done; then it drains: health turns
// to NOT_SERVING, calls go on for ShutdownDelay, no new ones are taken, those
// under way have ShutdownGrace to finish, and the rest is cut off. An orderly
// stop returns nil. A port that cannot be opened is a *SettingError.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Open(); err != nil {
		return err
	}
	defer s.Close()
	listener := s.listener
	if s.config.Listener != nil {
		listener = s.config.Listener(listener)
	}
	if s.adminListener != nil {
		s.config.Log.Info("metrics", "address", s.adminListener.Addr().String())
	}
	return s.serve(ctx, listener, s.adminListener)
}

// Open opens the ports, where that is to be known before something else is done. Who
// connects waits until Run. A port that cannot be opened is a *SettingError. Once they
// are open it does nothing.
func (s *Server) Open() (err error) {
	if s.listener != nil {
		return nil
	}
	if s.admin != nil {
		if s.adminListener, err = s.gate("metrics", s.config.Metrics, s.admin.open); err != nil {
			return err
		}
	}
	s.listener, err = s.gate("listen", s.config.Listen, s.open)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

// Close closes the ports of a server that is not run.
func (s *Server) Close() (err error) {
	for _, listener := range []net.Listener{s.listener, s.adminListener} {
		if listener == nil {
			continue
		}
		if closed := listener.Close(); !errors.Is(closed, net.ErrClosed) {
			err = errors.Join(err, closed)
		}
	}
	return err
}

func (s *Server) serve(ctx context.Context, listener, admin net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watches := append([]string{healthpb.Health_Watch_FullMethodName}, s.config.Watches...)
	s.long = longMethods(s.grpc, watches, func() *places {
		return newPlaces(max(1, s.config.MaxConnections/4), s.config.Known)
	})
	s.checkReadiness(ctx)
	if s.calls != nil {
		s.calls.InitializeMetrics(s.grpc)
	}

	var inside net.Listener = gate.New(math.MaxInt).Listener(s.memory, nil) // bounded by nothing: its calls are
	if s.config.Listener != nil {
		inside = s.config.Listener(inside)
	}
	go s.reload(ctx)
	tasks := []func() error{
		func() error { s.followReadiness(ctx); <-ctx.Done(); return nil },
		func() error { return unless(grpc.ErrServerStopped, s.grpc.Serve(listener)) },
		func() error { return unless(grpc.ErrServerStopped, s.grpc.Serve(inside)) },
	}
	if admin != nil {
		tasks = append(tasks, func() error { return s.admin.serve(admin) })
	}
	ended := make(chan error, len(tasks))
	for _, task := range tasks {
		go func() { ended <- task() }()
	}
	s.config.Log.Info("serving", "address", listener.Addr().String(), "connections", s.config.MaxConnections, "open_files", gate.OpenFiles())
	if s.config.Listening != nil {
		s.config.Listening(listener.Addr())
	}

	err := <-ended // nil only when ctx is done
	cancel()
	if stuck := s.drain(); stuck != nil {
		return errors.Join(err, stuck) // what is stuck is not waited for
	}
	for range len(tasks) - 1 {
		err = errors.Join(err, <-ended)
	}
	s.config.Log.Info("stopped")
	return err
}

// unless returns err, unless it only says that a stop came before the start.
func unless(stopped, err error) error {
	if errors.Is(err, stopped) {
		return nil
	}
	return err
}

// cutOff is how long handlers have to return once their calls are cut off.
const cutOff = 2 * time.Second

// drain stops the server, in the order that Run promises. It is an error if a
// handler does not return even though its context has ended.
func (s *Server) drain() error {
	s.config.Log.Info("stopping")
	s.health.Shutdown()
	time.Sleep(s.config.ShutdownDelay)
	s.endWatches()
	if s.admin != nil {
		defer s.admin.server.Close()
	}
	drained := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(drained)
	}()
	select {
	case <-drained:
		return nil
	case <-time.After(s.config.ShutdownGrace):
	}
	s.config.Log.Warn("cutting off the calls that are still under way")
	go s.grpc.Stop()
	select {
	case <-drained:
		return nil
	case <-time.After(cutOff):
		return errors.New("a handler does not return although its call has been cut off")
	}
}
