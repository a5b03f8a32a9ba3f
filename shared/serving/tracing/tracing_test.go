package tracing

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Without an endpoint there is nothing, and a nil *Traces does nothing.
func TestOffUnlessAskedFor(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	traces := Start(t.Context(), "p", "v", slog.New(slog.DiscardHandler))
	if traces != nil {
		t.Errorf("%v", traces)
	}
	if traces.Handler() != nil {
		t.Error("it has a handler")
	}
	traces.Stop()
	Handoff(t.Context(), "id")
}

// What is sent is what OTLP 1 says of JSON: ids in hex, times and integers as text, and a
// status without its text.
func TestOTLP(t *testing.T) {
	t.Parallel()
	var body []byte
	var got *http.Request
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}))
	defer collector.Close()
	variables := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b, x-other=c,"}
	exporter, err := newExporter(func(name string) string { return variables[name] })
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	remote := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	_, span := provider.Tracer("t").Start(t.Context(), "a.B/C", trace.WithSpanKind(trace.SpanKindServer),
		trace.WithLinks(trace.Link{SpanContext: remote}), trace.WithAttributes(attribute.Int("n", 7), attribute.Bool("b", true), attribute.String("s", "x")))
	span.SetStatus(codes.Error, "s3cret")
	span.End()
	if got == nil || got.URL.Path != "/v1/traces" || got.Header.Get("X-Key") != "a b" || got.Header.Get("X-Other") != "c" {
		t.Fatalf("got %+v", got)
	}
	var sent struct {
		ResourceSpans []struct {
			ScopeSpans []struct{ Spans []map[string]any }
		}
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(sent.ResourceSpans[0].ScopeSpans[0].Spans[0])
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`^\{"attributes":\[\{"key":"n","value":\{"intValue":"7"\}\},\{"key":"b","value":\{"boolValue":true\}\},\{"key":"s","value":\{"stringValue":"x"\}\}\],` +
		`"endTimeUnixNano":"\d{19}","kind":2,"links":\[\{"spanId":"0200000000000000","traceId":"01000000000000000000000000000000"\}\],"name":"a.B/C",` +
		`"spanId":"[0-9a-f]{16}","startTimeUnixNano":"\d{19}","status":\{"code":2\},"traceId":"[0-9a-f]{32}"\}$`)
	if !want.Match(text) {
		t.Errorf("sent %s", text)
	}
}

// I13: variables that a cluster sets for other programs stop no server: there are no
// traces, and the log names the variable, and not what it says.
func TestI13WrongVariablesAreNoTraces(t *testing.T) {
	for variable, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":    "s3cret:4317",
		"OTEL_EXPORTER_OTLP_HEADERS":     "s3cret",
		"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere",
		"OTEL_RESOURCE_ATTRIBUTES":       "s3cret",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example")
			t.Setenv(variable, value)
			var log strings.Builder
			if traces := Start(t.Context(), "p", "v", slog.New(slog.NewTextHandler(&log, nil))); traces != nil {
				t.Error("there are traces")
			}
			if said := log.String(); !strings.Contains(said, "traces are off") || !strings.Contains(said, variable) || strings.Contains(said, "s3cret") {
				t.Errorf("the log says %s", said)
			}
		})
	}
}

func TestWrongVariables(t *testing.T) {
	t.Parallel()
	for name, variables := range map[string]map[string]string{
		"no scheme":      {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
		"gRPC":           {"OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://collector:4317"},
		"a password":     {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://u:p@collector"},
		"headers":        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector", "OTEL_EXPORTER_OTLP_HEADERS": "x"},
		"no certificate": {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"},
	} {
		if _, err := newExporter(func(name string) string { return variables[name] }); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
