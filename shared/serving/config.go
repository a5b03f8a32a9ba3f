package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/tap"
)

// Flags are the settings that an operator makes, alike in both servers. The tags
// are kong's; the program that embeds them sets the variable "listen" to its
// default address.
type Flags struct {
	Listen          string        `default:"${listen}" placeholder:"HOST:PORT" help:"Address to serve gRPC on, over TLS 1.3 alone. Port 0 takes a free one; the line \"listening on ADDRESS\" on stdout tells which."`
	TLSCert         string        `required:"" placeholder:"FILE" help:"Certificate chain of this server, in PEM. Read again when it changes."`
	TLSKey          string        `required:"" placeholder:"FILE" help:"Private key of the certificate, in PEM, readable by its owner alone."`
	ClientCerts     bool          `name:"client-certificates" help:"Ask clients on gRPC for a certificate of their own, so that a handoff can be bound to it. Any will do, from any issuer. Off unless set."`
	Metrics         string        `placeholder:"HOST:PORT" help:"Address of the operator's port: Prometheus metrics at /metrics, /healthz and /readyz for probes. Plain HTTP on a loopback IP; with --metrics-client-ca TLS 1.3 on any address. Off unless set."`
	MetricsClientCA string        `name:"metrics-client-ca" placeholder:"FILE" help:"Certificates, in PEM, that vouch for the clients of --metrics, which then speaks TLS with the server's certificate and answers nobody else. Read again when it changes."`
	Reflection      bool          `help:"Offer gRPC server reflection. Off unless set."`
	MaxConnections  int           `default:"4096" placeholder:"N" help:"How many connections can be open at once, a quarter of them from one network (IPv4 address, IPv6 /48), a 64th once half are open. A new one beyond that takes the place of the one that has had no call for the longest time, of the network that holds the most, or is closed where all have calls. A proxy in front is one network."`
	LogLevel        Level         `default:"info" placeholder:"LEVEL" help:"Least level that is logged: debug, info, warn or error."`
	ShutdownDelay   time.Duration `default:"250ms" placeholder:"TIME" help:"How long to go on serving after health has turned to NOT_SERVING."`
	ShutdownGrace   time.Duration `default:"10s" placeholder:"TIME" help:"How long calls under way may then take to finish before they are cut off."`
}

// Logger returns the log of the program: a JSON object a line, from the level
// that the operator set.
func (f Flags) Logger(w io.Writer) *slog.Logger {
	return slog.New(Sampled(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: f.LogLevel})))
}

// Level is a level of the log. The zero Level is info.
type Level slog.Level

// levels are what an operator may say; Level has no others.
var levels = map[string]Level{
	"debug": Level(slog.LevelDebug), "info": Level(slog.LevelInfo), "warn": Level(slog.LevelWarn), "error": Level(slog.LevelError),
}

// Level makes it an slog.Leveler.
func (l Level) Level() slog.Level { return slog.Level(l) }

// UnmarshalText reads debug, info, warn or error, in any case.
func (l *Level) UnmarshalText(text []byte) error {
	chosen, ok := levels[strings.ToLower(string(text))]
	if !ok {
		return fmt.Errorf("must be debug, info, warn or error, not %q", text)
	}
	*l = chosen
	return nil
}

// Config says what New needs.
type Config struct {
	// Flags are the operator's settings. Listen, TLSCert, TLSKey and MaxConnections
	// are required.
	Flags
	// Log is where the server logs. Required.
	Log *slog.Logger
	// Unary and Stream are the program's own interceptors. They run inside all of
	// this package's.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
	// Audited are methods, by their full names, of which each call that succeeds has a
	// line in the log by the program itself. Theirs is then written at the level debug.
	Audited []string
	// Tap, if set, is asked about each call once its headers have arrived, in the
	// goroutine that reads the connection. A call that it refuses with a gRPC
	// status costs nothing more, and is neither logged nor counted.
	Tap tap.ServerInHandle
	// Listener, if set, wraps the listener of Flags.Listen, which has its bounds
	// already, before it is served; and that of Server.Conn.
	Listener func(net.Listener) net.Listener
	// Ready are the conditions of health: SERVING while all hold, and NOT_SERVING
	// otherwise. They are checked twice a second.
	Ready []Readiness
	// Look, if set, has them checked at once as well, whenever something can be
	// received from it.
	Look <-chan struct{}
	// Reload, if set, is called with each SIGHUP, one after the other: each reads files
	// of the program's again, as the server does its certificate.
	Reload []func()
	// Watches are the full names of streaming methods that are meant to stay open:
	// they end after ten minutes, for their clients to ask again, and when the
	// server stops. Of each, a quarter of Flags.MaxConnections can be open at once,
	// and a quarter of those from one network, or a 64th once half are open. The
	// health service's Watch is always one.
	Watches []string
	// Known are networks for whose watches half of these places are kept, together: of
	// those one network can have all. Others share what is left.
	Known []Network
	// Stats, if set, is told of each call, for traces.
	Stats stats.Handler
	// Version says what the program was built from, for the metrics.
	Version string
	// Collectors are the program's own metrics.
	Collectors []prometheus.Collector
	// Listening, if set, is called once the port is open, with its address.
	Listening func(net.Addr)
}

// Readiness is a condition without which the server should get no calls.
type Readiness struct {
	// Name is what the log calls it.
	Name string
	// Check returns nil while the condition holds. It is given a second.
	Check func(context.Context) error
}

func (c *Config) check() error {
	if c.Log == nil {
		return errors.New("Config.Log is required")
	}
	if err := checkAddress(c.Listen); err != nil {
		return &SettingError{"listen", err}
	}
	if err := c.checkAdmin(); err != nil {
		return err
	}
	if c.MaxConnections < 1 {
		return &SettingError{"max-connections", errors.New("must be at least 1")}
	}
	if c.ShutdownDelay < 0 {
		return &SettingError{"shutdown-delay", errors.New("must not be negative")}
	}
	if c.ShutdownGrace < 0 {
		return &SettingError{"shutdown-grace", errors.New("must not be negative")}
	}
	return nil
}

func checkAddress(address string) error {
	if address == "" {
		return errors.New("must be HOST:PORT")
	}
	if _, err := net.ResolveTCPAddr("tcp", address); err != nil {
		return fmt.Errorf("must be HOST:PORT: %w", err)
	}
	return nil
}

// checkLoopback accepts an IP address of the machine's own, and not a name: what
// a name stands for can change.
func checkLoopback(address string) error {
	host, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.New("must be IP:PORT with a loopback address, such as 127.0.0.1:9100")
	}
	if !host.Addr().IsLoopback() {
		return fmt.Errorf("%s is not a loopback address: without --metrics-client-ca metrics are plain TCP, which is refused off loopback", host.Addr())
	}
	return nil
}
