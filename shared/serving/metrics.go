package serving

import (
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// newRegistry registers the metrics of the calls, of the process and of the
// program. Labels come from the registered methods and from codes: closed sets.
func (s *Server) newRegistry(calls *grpcprom.ServerMetrics) (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	all := append([]prometheus.Collector{
		calls, s.panics, s.conditions,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}, s.gauges()...)
	for _, collector := range append(all, s.config.Collectors...) {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return registry, nil
}

// newConditions returns the gauge of the conditions, each of which is not known to hold
// until it has been checked.
func newConditions(ready []Readiness) *prometheus.GaugeVec {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "handoff_ready", Help: "Whether a condition of health holds (1) or not (0), by condition.",
	}, []string{"condition"})
	for _, condition := range ready {
		gauge.WithLabelValues(condition.Name).Set(0)
	}
	return gauge
}

// gauges returns what is looked up when it is asked for.
func (s *Server) gauges() []prometheus.Collector {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value)
	}
	return []prometheus.Collector{
		gauge("handoff_build_info", "Always 1; the labels say what the program was built from.",
			prometheus.Labels{"version": s.config.Version}, func() float64 { return 1 }),
		gauge("handoff_certificate_expires_timestamp_seconds", "When the TLS certificate in use expires, in Unix seconds.", nil,
			func() float64 { return float64(s.pair.get().Leaf.NotAfter.Unix()) }),
		gauge("handoff_connections_open", "Connections to the gRPC port that are open.", nil,
			func() float64 { return float64(s.open.Len()) }),
		gauge("handoff_connections_limit", "How many connections to the gRPC port can be open (--max-connections, or less where files are short).", nil,
			func() float64 { return float64(s.config.MaxConnections) }),
	}
}
