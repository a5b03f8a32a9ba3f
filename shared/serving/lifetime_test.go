package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/grpc/test/bufconn"

	"github.com/handoff-auth/handoff/shared/internal/gate"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// bubble runs a server and a connection to it inside a synctest bubble, over TLS
// in memory, so that minutes pass at once.
func bubble(t *testing.T, impl *service, change func(*Config), test func(*testing.T, *grpc.ClientConn, context.CancelFunc)) {
	t.Helper()
	listening(t, impl, change, func(t *testing.T, listener *bufconn.Listener, pool *x509.CertPool, stop context.CancelFunc) {
		conn, err := grpc.NewClient("passthrough:///127.0.0.1",
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }),
			grpc.WithIdleTimeout(0),
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13})))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		test(t, conn, stop)
	})
}

// listening runs a server inside a synctest bubble.
func listening(t *testing.T, impl *service, change func(*Config), test func(*testing.T, *bufconn.Listener, *x509.CertPool, context.CancelFunc)) {
	t.Helper()
	flags, pool := testFlags(t)
	synctest.Test(t, func(t *testing.T) {
		config := Config{Flags: flags}
		config.Log = config.Logger(&servingtest.Log{})
		if change != nil {
			change(&config)
		}
		server, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		testpb.RegisterTestServiceServer(server.GRPC(), impl)
		listener := bufconn.Listen(1 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- server.serve(ctx, listener, nil) }()
		synctest.Wait()
		defer func() {
			cancel()
			if err := <-served; err != nil {
				t.Error("serve:", err)
			}
		}()
		test(t, listener, pool, cancel)
	})
}

// TestG04: every call has a deadline, the client's if it is sooner; and a call
// whose body never comes ends at it.
func TestG04(t *testing.T) {
	var left time.Duration
	note := func(ctx context.Context) {
		left = 0
		if deadline, ok := ctx.Deadline(); ok {
			left = time.Until(deadline)
		}
	}
	impl := &service{
		unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			note(ctx)
			return &testpb.SimpleResponse{}, nil
		},
		stream: func(_ *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
			note(stream.Context())
			return nil
		},
	}
	bubble(t, impl, nil, func(t *testing.T, conn *grpc.ClientConn, _ context.CancelFunc) {
		client := testpb.NewTestServiceClient(conn)
		for _, c := range []struct{ asked, unary, stream time.Duration }{
			{0, CallTimeout, streamTimeout},
			{time.Hour, CallTimeout, streamTimeout},
			{time.Second, time.Second, time.Second},
		} {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if c.asked > 0 {
				ctx, cancel = context.WithTimeout(ctx, c.asked)
			}
			if _, err := client.UnaryCall(ctx, &testpb.SimpleRequest{}); err != nil || left != c.unary {
				t.Errorf("asked for %s, unary: got %s, %v", c.asked, left, err)
			}
			stream, err := client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, _ = stream.Recv(); left != c.stream {
				t.Errorf("asked for %s, stream: got %s", c.asked, left)
			}
			cancel()
		}

		start := time.Now()
		slow, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, unaryCall)
		if err != nil {
			t.Fatal(err)
		}
		err = slow.RecvMsg(&testpb.SimpleResponse{})
		if waited := time.Since(start); status.Code(err) != codes.DeadlineExceeded || waited != CallTimeout {
			t.Errorf("without a body: %v after %s", err, waited)
		}
	})
}

// TestG09Idle: a connection without calls is closed, and any connection ages.
func TestG09Idle(t *testing.T) {
	bubble(t, &service{}, nil, func(t *testing.T, conn *grpc.ClientConn, _ context.CancelFunc) {
		client := testpb.NewTestServiceClient(conn)
		if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
			t.Fatal(err)
		}
		for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() { // it is told after the call can begin
			conn.WaitForStateChange(t.Context(), state)
		}
		start := time.Now()
		if !conn.WaitForStateChange(t.Context(), connectivity.Ready) {
			t.Fatal("nothing happened")
		}
		if waited := time.Since(start); waited < idleTimeout || waited > idleTimeout+time.Second {
			t.Errorf("closed after %s", waited)
		}
		conn.Connect()
		for conn.GetState() != connectivity.Ready {
			conn.WaitForStateChange(t.Context(), conn.GetState())
		}
		start = time.Now()
		go func() {
			for time.Since(start) < maxAge*2 {
				_, _ = client.UnaryCall(t.Context(), &testpb.SimpleRequest{})
				time.Sleep(time.Minute)
			}
		}()
		conn.WaitForStateChange(t.Context(), connectivity.Ready)
		if waited := time.Since(start); waited < maxAge*9/10 || waited > maxAge*11/10+time.Second {
			t.Errorf("a busy connection was closed after %s", waited)
		}
		time.Sleep(maxAge * 2)
	})
}

// A watch outlasts other streams. It is told that the server stops, and does not
// hold the stop up.
func TestWatchOutlastsStreams(t *testing.T) {
	bubble(t, &service{}, nil, func(t *testing.T, conn *grpc.ClientConn, stop context.CancelFunc) {
		watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		wantHealth(t, watch, healthpb.HealthCheckResponse_SERVING)
		time.Sleep(streamTimeout + time.Minute)
		stop()
		wantHealth(t, watch, healthpb.HealthCheckResponse_NOT_SERVING)
		start := time.Now()
		if _, err := watch.Recv(); err == nil || time.Since(start) > time.Second {
			t.Errorf("the watch ended with %v after %s", err, time.Since(start))
		}
	})
}

// No watch is for ever.
func TestWatchAges(t *testing.T) {
	bubble(t, &service{}, nil, func(t *testing.T, conn *grpc.ClientConn, _ context.CancelFunc) {
		start := time.Now()
		watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		wantHealth(t, watch, healthpb.HealthCheckResponse_SERVING)
		_, err = watch.Recv()
		if waited := time.Since(start); status.Code(err) != codes.DeadlineExceeded || waited != watchTimeout {
			t.Errorf("the watch ended with %v after %s", err, waited)
		}
	})
}

func wantHealth(t *testing.T, watch grpc.ServerStreamingClient[healthpb.HealthCheckResponse], want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	if got, err := watch.Recv(); err != nil || got.GetStatus() != want {
		t.Fatalf("health is %v, %v; want %v", got.GetStatus(), err, want)
	}
}

// Health is SERVING while every condition holds, and looks at once when it is to.
func TestReadiness(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	var look chan struct{}
	ready := func(c *Config) {
		look = make(chan struct{})
		c.Look = look
		c.Ready = []Readiness{
			{Name: "always", Check: func(context.Context) error { return nil }},
			{Name: "store", Check: func(ctx context.Context) error {
				if broken.Load() {
					return errors.New("not yet")
				}
				return ctx.Err()
			}},
		}
	}
	bubble(t, &service{}, ready, func(t *testing.T, conn *grpc.ClientConn, _ context.CancelFunc) {
		client := healthpb.NewHealthClient(conn)
		for _, name := range []string{"", "grpc.testing.TestService"} {
			watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: name})
			if err != nil {
				t.Fatal(err)
			}
			broken.Store(true)
			time.Sleep(time.Second)
			wantHealth(t, watch, healthpb.HealthCheckResponse_NOT_SERVING)
			broken.Store(false)
			wantHealth(t, watch, healthpb.HealthCheckResponse_SERVING)
			broken.Store(true)
			began := time.Now()
			look <- struct{}{}
			wantHealth(t, watch, healthpb.HealthCheckResponse_NOT_SERVING)
			if waited := time.Since(began); waited > 0 {
				t.Errorf("it looked only after %s", waited)
			}
		}
	})
}

// A stop says NOT_SERVING, still takes calls for the delay, lets those under way
// finish, and cuts off what takes longer than the grace.
func TestStop(t *testing.T) {
	const delay, grace = 3 * time.Second, 5 * time.Second
	settings := func(c *Config) { c.ShutdownDelay, c.ShutdownGrace = delay, grace }
	impl := &service{unary: func(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		select {
		case <-time.After(time.Duration(req.GetResponseSize()) * time.Second):
			return &testpb.SimpleResponse{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	bubble(t, impl, settings, func(t *testing.T, conn *grpc.ClientConn, stop context.CancelFunc) {
		client := testpb.NewTestServiceClient(conn)
		call := func(seconds int32) chan error {
			answer := make(chan error, 1)
			go func() {
				_, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{ResponseSize: seconds})
				answer <- err
			}()
			synctest.Wait()
			return answer
		}
		watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		wantHealth(t, watch, healthpb.HealthCheckResponse_SERVING)
		finishes, tooLong := call(7), call(9)
		stop()
		wantHealth(t, watch, healthpb.HealthCheckResponse_NOT_SERVING)
		time.Sleep(delay / 2)
		if err := <-call(1); err != nil {
			t.Error("a call in the delay:", err)
		}
		if err := <-finishes; err != nil {
			t.Error("a call that ends within the grace:", err)
		}
		if err := <-tooLong; status.Code(err) != codes.Unavailable {
			t.Error("a call that does not:", err)
		}
	})
}

// A handler that ignores the end of its context does not keep Run from returning.
func TestStopWithStuckHandler(t *testing.T) {
	free := make(chan struct{})
	defer close(free)
	r := run(t, &service{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		<-free
		return nil, nil
	}}, func(c *Config) { c.ShutdownGrace = 10 * time.Millisecond })
	go func() { _, _ = r.client(t).UnaryCall(context.Background(), &testpb.SimpleRequest{}) }()
	time.Sleep(200 * time.Millisecond)
	r.stop()
	select {
	case err := <-r.stopped:
		close(r.stopped)
		if err == nil {
			t.Error("Run says that all is well")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not return")
	}
}

// A stop is orderly however early it comes.
func TestStopAtOnce(t *testing.T) {
	t.Parallel()
	for range 50 {
		flags, _ := testFlags(t)
		flags.Metrics = "127.0.0.1:0"
		ctx, cancel := context.WithCancel(t.Context())
		server, err := New(Config{Flags: flags, Log: flags.Logger(&servingtest.Log{}), Listening: func(net.Addr) { cancel() }})
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Run(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestG11: the public port has what was registered, health and no more.
func TestG11(t *testing.T) {
	t.Parallel()
	for _, reflection := range []bool{false, true} {
		r := run(t, &service{}, func(c *Config) { c.Reflection = reflection; c.Metrics = "127.0.0.1:0" })
		conn := r.dial(t)
		for method, offered := range map[string]bool{
			"/grpc.health.v1.Health/Check":                                   true,
			"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      reflection,
			"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflection,
			"/grpc.channelz.v1.Channelz/GetServers":                          false,
			"/grpc.admin.v1.Admin/Get":                                       false,
			"/metrics":                                                       false,
			"/debug/pprof/":                                                  false,
		} {
			err := conn.Invoke(t.Context(), method, &testpb.Empty{}, &testpb.Empty{})
			if got := status.Code(err) != codes.Unimplemented; got != offered {
				t.Errorf("reflection %v: %s: %v", reflection, method, err)
			}
		}
		services := r.GRPC().GetServiceInfo()
		if len(services) > 4 {
			t.Errorf("the port offers %v", services)
		}
	}
}

// I12: a changed certificate is taken up; one that is worse is not, says so at WARN
// and is taken up once it is right.
func TestI12CertificateReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flags, _ := testFlags(t)
		output := new(servingtest.Log)
		c, err := loadCertificate(flags.TLSCert, flags.TLSKey, flags.Logger(output))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		expect := func(step string, serial int64, told string) {
			t.Helper()
			for range 3 { // told once
				time.Sleep(time.Second)
				if got := c.get().Leaf.SerialNumber.Int64(); got != serial {
					t.Errorf("%s: certificate %d, want %d", step, got, serial)
				}
			}
			if got := output.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, told) {
				t.Errorf("%s: the log says %q, want one line with %q", step, got, told)
			}
			*output = servingtest.Log{}
		}
		const worse = `"level":"WARN","msg":"the changed certificate is not used: the last good one stays"`
		writePair(t, flags, 2, began.Add(time.Hour))
		expect("a change", 2, `"level":"INFO"`)
		write(t, flags.TLSCert, []byte("nonsense"))
		expect("a bad change", 2, worse)
		writePair(t, flags, 3, began.Add(time.Hour))
		if err := os.Chmod(flags.TLSKey, 0o644); err != nil {
			t.Fatal(err)
		}
		expect("a key that others can read", 2, worse)
		if err := os.Chmod(flags.TLSKey, 0o600); err != nil {
			t.Fatal(err)
		}
		expect("chmod 600", 3, `"level":"INFO"`)
		writePair(t, flags, 4, time.Now().Add(-time.Second))
		expect("an expired one", 3, worse)
		writePairFrom(t, flags, 5, time.Now().Add(10*time.Second), began.Add(time.Hour))
		expect("one that is not valid yet", 3, worse)
		time.Sleep(10 * time.Second)
		expect("valid by now", 5, `"level":"INFO"`)
	})
}

// I11: SIGHUP has the certificate and the program's own files read at once.
func TestI11HangupReadsTheFilesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flags, _ := testFlags(t)
		output := new(servingtest.Log)
		log := flags.Logger(output)
		pair, err := loadCertificate(flags.TLSCert, flags.TLSKey, log)
		if err != nil {
			t.Fatal(err)
		}
		looked := 0
		s := &Server{pair: pair, config: Config{Log: log, Reload: []func(){func() { looked++ }, func() { looked++ }}}}
		received := make(chan os.Signal, 1)
		ctx, stop := context.WithCancel(context.WithValue(t.Context(), hangups{}, (<-chan os.Signal)(received)))
		go s.reload(ctx)
		writePair(t, flags, 2, time.Now().Add(time.Hour))
		received <- syscall.SIGHUP
		synctest.Wait()
		if looked != 2 || !strings.Contains(output.String(), "certificate loaded again") {
			t.Errorf("%d of 2 have looked; the log: %s", looked, output)
		}
		stop()
	})
}

// Each setting that cannot be served with is refused, by name, before a port is
// open.
func TestSettings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(*Flags)
		setting string
	}{
		"no address":            {func(f *Flags) { f.Listen = "" }, "listen"},
		"no port":               {func(f *Flags) { f.Listen = "127.0.0.1" }, "listen"},
		"port out of range":     {func(f *Flags) { f.Listen = "127.0.0.1:65536" }, "listen"},
		"no certificate":        {func(f *Flags) { f.TLSCert = "" }, "tls-cert"},
		"no key":                {func(f *Flags) { f.TLSKey = "" }, "tls-key"},
		"certificate missing":   {func(f *Flags) { f.TLSCert += ".missing" }, "tls-cert"},
		"key missing":           {func(f *Flags) { f.TLSKey += ".missing" }, "tls-key"},
		"certificate a folder":  {func(f *Flags) { f.TLSCert = t.TempDir() }, "tls-cert"},
		"certificate empty":     {func(f *Flags) { write(t, f.TLSCert, nil) }, "tls-cert"},
		"certificate huge":      {func(f *Flags) { write(t, f.TLSCert, make([]byte, maxPEM+1)) }, "tls-cert"},
		"key for certificate":   {func(f *Flags) { f.TLSCert = f.TLSKey }, "tls-cert"},
		"another's key":         {otherKey(t), "tls-cert"},
		"expired":               {func(f *Flags) { writePair(t, *f, 1, time.Now().Add(-time.Second)) }, "tls-cert"},
		"not yet valid":         {func(f *Flags) { writePairFrom(t, *f, 1, time.Now().Add(time.Minute), time.Now().Add(time.Hour)) }, "tls-cert"},
		"world-readable key":    {func(f *Flags) { _ = os.Chmod(f.TLSKey, 0o604) }, "tls-key"},
		"group-readable key":    {func(f *Flags) { _ = os.Chmod(f.TLSKey, 0o640) }, "tls-key"},
		"metrics off loopback":  {func(f *Flags) { f.Metrics = "192.0.2.1:9100" }, "metrics"},
		"metrics everywhere":    {func(f *Flags) { f.Metrics = ":9100" }, "metrics"},
		"metrics by name":       {func(f *Flags) { f.Metrics = "localhost:9100" }, "metrics"},
		"clients of no port":    {func(f *Flags) { f.MetricsClientCA = f.TLSCert }, "metrics-client-ca"},
		"clients of a key":      {func(f *Flags) { f.Metrics, f.MetricsClientCA = "127.0.0.1:0", f.TLSKey }, "metrics-client-ca"},
		"clients of nothing":    {func(f *Flags) { f.Metrics, f.MetricsClientCA = "127.0.0.1:0", f.TLSKey+".missing" }, "metrics-client-ca"},
		"metrics on no port":    {func(f *Flags) { f.Metrics, f.MetricsClientCA = "127.0.0.1", f.TLSCert }, "metrics"},
		"no connections":        {func(f *Flags) { f.MaxConnections = 0 }, "max-connections"},
		"negative delay":        {func(f *Flags) { f.ShutdownDelay = -1 }, "shutdown-delay"},
		"negative grace":        {func(f *Flags) { f.ShutdownGrace = -1 }, "shutdown-grace"},
		"address that is taken": {taken(t), "listen"},
		"address of others":     {func(f *Flags) { f.Listen = "192.0.2.1:0" }, "listen"},
	} {
		flags, _ := testFlags(t)
		c.change(&flags)
		config := Config{Flags: flags, Log: flags.Logger(&servingtest.Log{}), Listening: func(a net.Addr) { t.Errorf("%s: listens on %s", name, a) }}
		server, err := New(config)
		if err == nil {
			err = server.Run(t.Context())
		}
		var setting *SettingError
		if !errors.As(err, &setting) || setting.Setting != c.setting {
			t.Errorf("%s: got %v, want --%s", name, err, c.setting)
		}
		var line strings.Builder
		if code := Exit(&line, "program", err); code != 2 || strings.Count(line.String(), "\n") != 1 {
			t.Errorf("%s: status %d, %q", name, code, &line)
		}
	}
}

func otherKey(t *testing.T) func(*Flags) {
	return func(f *Flags) {
		other, _ := testFlags(t)
		f.TLSKey = other.TLSKey
	}
}

func taken(t *testing.T) func(*Flags) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return func(f *Flags) { f.Listen = listener.Addr().String() }
}

// The metrics have one label set for each registered method from the start, and
// no other: what a caller sends makes none.
func TestH09(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, func(c *Config) { c.Metrics = "127.0.0.1:0" })
	lines := func() (found []string) {
		for line := range strings.Lines(r.scrape(t)) {
			if strings.HasPrefix(line, "grpc_server_started_total") {
				name, _, _ := strings.Cut(line, "} ")
				found = append(found, name)
			}
		}
		return found
	}
	before := lines()
	conn := r.dial(t)
	for _, method := range []string{"/a/b", "/grpc.testing.TestService/Invented", "/x/" + strings.Repeat("y", 1000)} {
		_ = conn.Invoke(t.Context(), method, &testpb.Empty{}, &testpb.Empty{})
	}
	if after := lines(); len(before) == 0 || !slices.Equal(before, after) {
		t.Errorf("from %d to %d series: %v", len(before), len(after), after)
	}
}

// The program's own Tap may refuse a call, with its own words, before it has a
// deadline or a handler; and what it lets through is served as ever.
func TestTap(t *testing.T) {
	var ran atomic.Int32
	impl := &service{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		ran.Add(1)
		if _, ok := ctx.Deadline(); !ok || ctx.Value(tapped{}) == nil {
			t.Error("a call came past begin or past the program's Tap")
		}
		return &testpb.SimpleResponse{}, nil
	}}
	var full atomic.Bool
	change := func(c *Config) {
		c.Tap = func(ctx context.Context, call *tap.Info) (context.Context, error) {
			if call.FullMethodName == unaryCall && full.Load() {
				return nil, status.Error(codes.ResourceExhausted, "full")
			}
			return context.WithValue(ctx, tapped{}, true), nil
		}
	}
	bubble(t, impl, change, func(t *testing.T, conn *grpc.ClientConn, _ context.CancelFunc) {
		client := testpb.NewTestServiceClient(conn)
		for _, refuses := range []bool{false, true, false} {
			full.Store(refuses)
			_, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{})
			if refuses && (status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "full") || !refuses && err != nil {
				t.Errorf("full is %v: %v", refuses, err)
			}
		}
	})
	if got := ran.Load(); got != 2 {
		t.Errorf("the handler ran %d times, want 2", got)
	}
}

type tapped struct{}

// The program's own listener has the connections, within the server's bounds.
func TestConfigListener(t *testing.T) {
	t.Parallel()
	wrapped := make(chan net.Listener, 2)
	r := run(t, &service{}, func(c *Config) {
		c.Listener = func(l net.Listener) net.Listener {
			_, bounded := l.(*gate.Listener)
			if _, own := l.(memory); !bounded && !own { // Conn has one connection
				t.Errorf("it wraps %T, which has no bounds", l)
			}
			counting := &countingListener{Listener: l}
			wrapped <- counting
			return counting
		}
	})
	if _, err := testpb.NewTestServiceClient(r.dial(t)).UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Error(err)
	}
	if n := (<-wrapped).(*countingListener).accepted.Load(); n == 0 {
		t.Error("it was given no connection")
	}
}

type countingListener struct {
	net.Listener
	accepted atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}
