package pair

import (
	"context"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Serving asks SERVER2 whether it serves.
func (c *Client) Serving(ctx context.Context) (bool, error) {
	response, err := healthpb.NewHealthClient(c.connections[1]).Check(ctx, &healthpb.HealthCheckRequest{})
	return response.GetStatus() == healthpb.HealthCheckResponse_SERVING, err
}
