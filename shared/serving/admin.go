package serving

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/handoff-auth/handoff/shared/internal/gate"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// maxAdmin bounds the connections to the operator's port. A quarter of them can come from
// one network: as many as a few scrapers and probes need.
const maxAdmin = 64

// admin is the operator's port: metrics and two answers for probes, over plain HTTP on
// loopback, or over TLS to who has a certificate of the operator's authority.
type admin struct {
	server  *http.Server
	open    *gate.Connections
	clients *vetted.Followed[*x509.CertPool] // nil: plain HTTP
}

// newAdmin has its own mux: nothing that a library adds to the default one shows here.
func (s *Server) newAdmin(registry *prometheus.Registry) (*admin, error) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		answer, err := s.health.Check(r.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			say(w, http.StatusServiceUnavailable, "not ready")
			return
		}
		say(w, http.StatusOK, "ready")
	})
	a := &admin{open: gate.New(maxAdmin)}
	a.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    MaxHeaderBytes,
		ConnState:         a.open.ConnState,
		ErrorLog:          slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug),
	}
	if s.config.MetricsClientCA == "" {
		return a, nil
	}
	var err error
	if a.clients, err = followRoots(s.config.MetricsClientCA, s.config.Log); err != nil {
		return nil, &SettingError{"metrics-client-ca", err}
	}
	a.server.TLSConfig = s.adminTLS(a.clients)
	return a, nil
}

func say(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text)
}

// followRoots reads certificates in PEM from a file, and again when it changes.
func followRoots(file string, log *slog.Logger) (*vetted.Followed[*x509.CertPool], error) {
	read := func(texts [][]byte) (*x509.CertPool, error) {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(texts[0]) {
			return nil, fmt.Errorf("%s has no certificate in PEM", file)
		}
		return roots, nil
	}
	observe := func(err error) {
		if err != nil {
			log.Warn("the changed client authority is not used: the last good one stays", "error", err.Error())
			return
		}
		log.Info("client authority loaded again")
	}
	return vetted.Follow(read, observe, vetted.File{Path: file, Max: maxPEM})
}

// adminTLS demands a certificate of an authority in clients. No session is resumed: it
// would outlive the authority that has let it in.
func (s *Server) adminTLS(clients *vetted.Followed[*x509.CertPool]) *tls.Config {
	config := s.TLS("http/1.1")
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = clients.Get()
	config.SessionTicketsDisabled = true
	base := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := base.Clone()
		now.ClientCAs = clients.Get()
		return now, nil
	}
	return config
}

// serve answers until the server is closed.
func (a *admin) serve(listener net.Listener) error {
	var err error
	if a.clients == nil {
		err = a.server.Serve(listener)
	} else {
		err = a.server.ServeTLS(listener, "", "")
	}
	return unless(http.ErrServerClosed, err)
}

// checkAdmin refuses an operator's port that strangers could read.
func (f Flags) checkAdmin() error {
	check := checkAddress
	switch {
	case f.Metrics == "" && f.MetricsClientCA != "":
		return &SettingError{"metrics-client-ca", errors.New("is for --metrics, which is not given")}
	case f.Metrics == "":
		return nil
	case f.MetricsClientCA == "":
		check = checkLoopback
	}
	if err := check(f.Metrics); err != nil {
		return &SettingError{"metrics", err}
	}
	return nil
}
