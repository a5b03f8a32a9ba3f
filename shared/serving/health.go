package serving

import (
	"context"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// health answers for the services that are registered. It keeps no name that a
// caller has made up: a watch of another service ends with NOT_FOUND, as Check
// does, where the protocol would have it answer SERVICE_UNKNOWN and stay open
// until the service appears. None appears later here.
type health struct{ *grpchealth.Server }

// Watch sends the status of a service whenever it changes, for watchTimeout.
func (h health) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx := stream.Context()
	if _, err := h.Check(ctx, req); err != nil {
		return err
	}
	err := h.Server.Watch(req, stream)
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

const (
	readinessInterval = 500 * time.Millisecond
	readinessTimeout  = time.Second
)

// followReadiness keeps the health service true until ctx is done.
func (s *Server) followReadiness(ctx context.Context) {
	if len(s.config.Ready) == 0 {
		return
	}
	tick := time.NewTicker(readinessInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.config.Look:
		}
		s.checkReadiness(ctx)
	}
}

// checkReadiness asks every condition, tells health, and logs what has changed.
func (s *Server) checkReadiness(ctx context.Context) {
	all := healthpb.HealthCheckResponse_SERVING
	for _, condition := range s.config.Ready {
		checking, cancel := context.WithTimeout(ctx, readinessTimeout)
		err := condition.Check(checking)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			all = healthpb.HealthCheckResponse_NOT_SERVING
		}
		was, known := s.ready[condition.Name]
		s.ready[condition.Name] = err == nil
		holds := 0.0
		if err == nil {
			holds = 1
		}
		s.conditions.WithLabelValues(condition.Name).Set(holds)
		switch {
		case err != nil && (was || !known):
			s.config.Log.Warn("not ready", "condition", condition.Name, "cause", short(err.Error()))
		case err == nil && known && !was:
			s.config.Log.Info("ready", "condition", condition.Name)
		}
	}
	s.health.SetServingStatus("", all)
	for service := range s.grpc.GetServiceInfo() {
		if !libraryOwn("/" + service) {
			s.health.SetServingStatus(service, all)
		}
	}
}
