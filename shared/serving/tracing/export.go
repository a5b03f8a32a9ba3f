package tracing

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// exporter sends spans as OTLP in JSON over HTTP, which every collector takes.
// OpenTelemetry's own exporters link gRPC's gzip, by which a small request to a server
// could unpack to a large one.
type exporter struct {
	to      string
	headers http.Header
	client  *http.Client
}

// sendTimeout is how long a collector may take, as OpenTelemetry has it.
const sendTimeout = 10 * time.Second

// newExporter goes by OpenTelemetry's variables. One for traces counts before one for all.
func newExporter(getenv func(string) string) (*exporter, error) {
	variable := func(name string) (value, from string) {
		if value := getenv("OTEL_EXPORTER_OTLP_TRACES_" + name); value != "" {
			return value, "OTEL_EXPORTER_OTLP_TRACES_" + name
		}
		return getenv("OTEL_EXPORTER_OTLP_" + name), "OTEL_EXPORTER_OTLP_" + name
	}
	endpoint, from := variable("ENDPOINT")
	if endpoint == "" {
		return nil, nil
	}
	to, err := url.Parse(endpoint)
	if err != nil || to.Scheme != "https" && to.Scheme != "http" || to.Host == "" || to.User != nil {
		return nil, fmt.Errorf("$%s must be http://HOST:PORT or https://HOST:PORT", from)
	}
	if from == "OTEL_EXPORTER_OTLP_ENDPOINT" {
		to = to.JoinPath("v1", "traces")
	}
	e := &exporter{to: to.String(), headers: http.Header{"Content-Type": {"application/json"}}}
	headers, from := variable("HEADERS")
	for pair := range strings.SplitSeq(headers, ",") {
		if strings.TrimSpace(pair) == "" { // as after a comma at the end
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil {
			return nil, fmt.Errorf("$%s must be NAME=VALUE,NAME=VALUE", from)
		}
		e.headers.Set(strings.TrimSpace(name), value)
	}
	roots := (*x509.CertPool)(nil)
	if file, from := variable("CERTIFICATE"); file != "" {
		if roots, err = (vetted.File{Path: file, Max: 1 << 20}).Roots(); err != nil {
			return nil, fmt.Errorf("$%s: %w", from, err)
		}
	}
	e.client = &http.Client{
		Timeout:       sendTimeout,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConns: 1, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the collector redirects") },
	}
	return e, nil
}

// ExportSpans is OpenTelemetry's. What could not be sent is lost.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if len(spans) == 0 {
		return nil
	}
	body, err := json.Marshal(encode(spans))
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header = e.headers.Clone()
	answer, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", answer.Status)
	}
	return nil
}

// Shutdown is OpenTelemetry's.
func (e *exporter) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

// object is one of JSON, by the names of OTLP 1.
type object map[string]any

func encode(spans []sdktrace.ReadOnlySpan) object {
	all := make([]object, len(spans))
	for i, span := range spans {
		all[i] = encodeSpan(span)
	}
	return object{"resourceSpans": []object{{
		"resource":   object{"attributes": attributes(spans[0].Resource().Attributes())},
		"scopeSpans": []object{{"scope": object{"name": spans[0].InstrumentationScope().Name}, "spans": all}},
	}}}
}

func encodeSpan(span sdktrace.ReadOnlySpan) object {
	of := span.SpanContext()
	o := object{
		"traceId": of.TraceID().String(), "spanId": of.SpanID().String(), "name": span.Name(), "kind": int(span.SpanKind()),
		"startTimeUnixNano": nanos(span.StartTime()), "endTimeUnixNano": nanos(span.EndTime()),
		"attributes": attributes(span.Attributes()), "status": object{"code": statusCodes[span.Status().Code.String()]},
	}
	if parent := span.Parent(); parent.HasSpanID() {
		o["parentSpanId"] = parent.SpanID().String()
	}
	var links []object
	for _, link := range span.Links() {
		to := link.SpanContext
		links = append(links, object{"traceId": to.TraceID().String(), "spanId": to.SpanID().String()})
	}
	if links != nil {
		o["links"] = links
	}
	return o
}

// statusCodes are OTLP's numbers, which are not OpenTelemetry's of Go. The text of a status
// is left out: it can be what a handler has said.
var statusCodes = map[string]int{"Unset": 0, "Ok": 1, "Error": 2}

func nanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }

func attributes(all []attribute.KeyValue) []object {
	encoded := make([]object, len(all))
	for i, one := range all {
		value := object{"stringValue": one.Value.String()}
		switch one.Value.Type() {
		case attribute.BOOL:
			value = object{"boolValue": one.Value.AsBool()}
		case attribute.INT64:
			value = object{"intValue": strconv.FormatInt(one.Value.AsInt64(), 10)}
		}
		encoded[i] = object{"key": string(one.Key), "value": value}
	}
	return encoded
}
