// Package tracing makes the servers' gRPC calls spans of OpenTelemetry, where an operator
// asks for them: unless OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
// is set it is off and costs nothing. The variables ..._HEADERS and ..._CERTIFICATE beside
// them count too, and the SDK's own (OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME); of the
// protocols, only OTLP in JSON over HTTP is spoken. These variables are not the server's
// own, and a cluster sets them for all that it runs: with those of which nothing can be
// made there are no traces, and the log says why.
//
//	traces := tracing.Start(ctx, "handoff-server2", version, log)
//	defer traces.Stop()
//	config.Stats = traces.Handler()  // of serving.Config
//	tracing.Handoff(ctx, grant.ID()) // in a call: its span is of that handoff
//
// # Invariants
//
// A span has the method, the status, the caller's address and, once the issuer vouches for
// it, the handoff's id as handoff.id: by that a handoff is found at SERVER1, where it was
// issued, and at SERVER2, where it was redeemed. It has no metadata, no message and no
// token. Each call is a trace of its own, linked to the caller's, who therefore decides
// nothing, not even whether it is sampled.
package tracing

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/stats"
)

// Traces sends spans. A nil *Traces, which sends none, can be used as well.
type Traces struct{ provider *sdktrace.TracerProvider }

// Start returns nil where there are to be no traces, or can be none.
func Start(ctx context.Context, program, version string, log *slog.Logger) *Traces {
	exporter, err := newExporter(os.Getenv)
	if err != nil {
		log.Warn("traces are off", "cause", err.Error())
	}
	if exporter == nil {
		return nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { // else it writes lines of its own
		log.Warn("traces are not sent", "cause", err.Error())
	}))
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", program), attribute.String("service.version", version)),
		resource.WithFromEnv()) // the operator's names win
	if err != nil {
		// The error would say what the variable says.
		log.Warn("traces are off", "cause", "$OTEL_RESOURCE_ATTRIBUTES must be NAME=VALUE,NAME=VALUE")
		return nil
	}
	log.Info("traces are sent")
	return &Traces{sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))}
}

// Handler returns what has each call of a gRPC server be a span, or nil.
func (t *Traces) Handler() stats.Handler {
	if t == nil {
		return nil
	}
	return otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithPropagators(propagation.TraceContext{}), // no baggage: callers write what they like into it
		otelgrpc.WithPublicEndpoint(),
		otelgrpc.WithFilter(isOurs))
}

// isOurs leaves out health and reflection, which are asked all the time and tell nothing.
func isOurs(call *stats.RPCTagInfo) bool {
	return !strings.HasPrefix(call.FullMethodName, "/grpc.")
}

// lastSpans is how long a server's end waits for the spans of its last calls.
const lastSpans = 2 * time.Second

// Stop sends what is left.
func (t *Traces) Stop() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}

// Handoff notes in the span of a call of which handoff it is. Without a span it does
// nothing.
func Handoff(ctx context.Context, id string) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attribute.String("handoff.id", id))
	}
}
