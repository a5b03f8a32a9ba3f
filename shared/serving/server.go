package serving

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
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
)

// Server is one gRPC server and, if it is asked for, the listener of its
// metrics. Register services on GRPC, then Run it, once.
type Server struct {
	config Config
	pair   *certificate
	grpc   *grpc.Server
	health *grpchealth.Server
	panics prometheus.Counter
	admin  *http.Server            // nil: no metrics
	calls  *grpcprom.ServerMetrics // nil: no metrics

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
	pair, err := loadCertificate(config.TLSCert, config.TLSKey, config.Log)
	if err != nil {
		return nil, err
	}
	s := &Server{
		config: config,
		pair:   pair,
		health: grpchealth.NewServer(),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "grpc_server_panics_total", Help: "Panics of handlers and interceptors that were recovered.",
		}),
		ready: map[string]bool{},
	}
	s.watching, s.endWatches = context.WithCancel(context.Background())
	if config.Metrics != "" {
		s.calls = grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram())
		registry, err := s.newRegistry(s.calls)
		if err != nil {
			return nil, err
		}
		s.admin = newAdmin(registry)
	}
	unary, stream := s.interceptors()
	s.grpc = grpc.NewServer(append(limits(),
		grpc.Creds(credentials.NewTLS(pair.tlsConfig())),
		grpc.InTapHandle(s.begin),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
	)...)
	healthpb.RegisterHealthServer(s.grpc, health{s.health})
	if config.Reflection {
		reflection.RegisterV1(s.grpc)
	}
	return s, nil
}

// GRPC returns the server to register services on, before Run.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// TLS returns what another listener of the program needs to serve these protocols
// (RFC 7301) with the server's certificate, as it changes: TLS 1.3 alone.
func (s *Server) TLS(protocols ...string) *tls.Config {
	config := s.pair.tlsConfig()
	config.NextProtos = protocols
	return config
}

// Listen opens a port with bounds of its own: Flags.MaxConnections, as Run's has.
// A port that cannot be opened is a *SettingError.
func (s *Server) Listen(setting, address string) (net.Listener, error) {
	listener, err := listen(setting, address)
	if err != nil {
		return nil, err
	}
	return &gate{Listener: listener, open: newQuota(s.config.MaxConnections), log: s.config.Log}, nil
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

// Run opens the ports and serves until ctx is done; then it drains: health turns
// to NOT_SERVING, calls go on for ShutdownDelay, no new ones are taken, those
// under way have ShutdownGrace to finish, and the rest is cut off. An orderly
// stop returns nil. A port that cannot be opened is a *SettingError.
func (s *Server) Run(ctx context.Context) error {
	listener, err := s.Listen("listen", s.config.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	if s.config.Listener != nil {
		listener = s.config.Listener(listener)
	}
	if s.admin == nil {
		return s.serve(ctx, listener, nil)
	}
	admin, err := listen("metrics", s.config.Metrics)
	if err != nil {
		return err
	}
	defer admin.Close()
	s.config.Log.Info("metrics", "address", admin.Addr().String())
	return s.serve(ctx, listener, admin)
}

func (s *Server) serve(ctx context.Context, listener, admin net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watches := append([]string{healthpb.Health_Watch_FullMethodName}, s.config.Watches...)
	s.long = longMethods(s.grpc, watches, max(1, s.config.MaxConnections/4))
	s.checkReadiness(ctx)
	if s.calls != nil {
		s.calls.InitializeMetrics(s.grpc)
	}

	tasks := []func() error{
		func() error { s.followReadiness(ctx); <-ctx.Done(); return nil },
		func() error { return unless(grpc.ErrServerStopped, s.grpc.Serve(listener)) },
	}
	if admin != nil {
		tasks = append(tasks, func() error { return unless(http.ErrServerClosed, s.admin.Serve(admin)) })
	}
	ended := make(chan error, len(tasks))
	for _, task := range tasks {
		go func() { ended <- task() }()
	}
	s.config.Log.Info("serving", "address", listener.Addr().String())
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
		defer s.admin.Close()
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
