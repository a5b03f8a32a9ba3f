package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const secret = "open /etc/secret/key.pem"

func written(code codes.Code) error {
	st, err := status.New(code, "for the caller").WithDetails(&errdetails.ErrorInfo{Domain: "test", Reason: "TOLD"})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// TestG14: an error's text reaches the caller only if it was written for them.
func TestG14(t *testing.T) {
	t.Parallel()
	ok := status.FromProto(status.Convert(written(codes.Aborted)).Proto())
	okProto := ok.Proto()
	okProto.Code = int32(codes.OK)
	cases := []struct {
		name string
		err  error
		code codes.Code
		told bool // the handler's own status arrives
	}{
		{"plain", errors.New(secret), codes.Internal, false},
		{"status without ErrorInfo", status.Error(codes.NotFound, secret), codes.Internal, false},
		{"status with ErrorInfo", written(codes.NotFound), codes.NotFound, true},
		{"wrapped status with ErrorInfo", fmt.Errorf("%s: %w", secret, written(codes.NotFound)), codes.NotFound, true},
		{"status that says OK", okError{status.FromProto(okProto)}, codes.Internal, false},
		{"deadline", fmt.Errorf("%s: %w", secret, context.DeadlineExceeded), codes.DeadlineExceeded, false},
		{"cancelled", fmt.Errorf("%s: %w", secret, context.Canceled), codes.Canceled, false},
		{"unimplemented", status.Error(codes.Unimplemented, secret), codes.Unimplemented, false},
	}
	var answer error
	r := run(t, &service{
		unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) { return nil, answer },
		stream: func(*testpb.StreamingOutputCallRequest, grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
			return answer
		},
	}, nil)
	client := r.client(t)
	for _, c := range cases {
		answer = c.err
		_, unary := client.UnaryCall(t.Context(), &testpb.SimpleRequest{})
		stream, err := client.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, streamed := stream.Recv()
		for kind, got := range map[string]error{"unary": unary, "stream": streamed} {
			if status.Code(got) != c.code || strings.Contains(fmt.Sprint(got), "secret") {
				t.Errorf("%s, %s: got %v, want %v", c.name, kind, got, c.code)
			}
			domain := map[bool]string{true: "test", false: errorDomain}[c.told]
			if infoOf(got).GetDomain() != domain {
				t.Errorf("%s, %s: %v has not the ErrorInfo of %s", c.name, kind, got, domain)
			}
		}
	}
	if n := strings.Count(r.log.String(), `"cause":"`); n < 2*(len(cases)-1) {
		t.Errorf("the log has %d causes:\n%s", n, r.log)
	}
}

type okError struct{ st *status.Status }

func (e okError) Error() string              { return secret }
func (e okError) GRPCStatus() *status.Status { return e.st }

// TestG13: a panic is the end of one call, told as INTERNAL, logged and counted.
func TestG13(t *testing.T) {
	t.Parallel()
	boom := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if req.(*testpb.SimpleRequest).GetFillUsername() {
			panic("in an interceptor")
		}
		return handler(ctx, req)
	}
	r := run(t, &service{
		unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) { panic(secret) },
		stream: func(*testpb.StreamingOutputCallRequest, grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
			panic(secret)
		},
	}, func(c *Config) {
		c.Metrics = "127.0.0.1:0"
		c.Unary = append(c.Unary, boom)
	})
	client := r.client(t)
	_, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{})
	wantCode(t, err, codes.Internal)
	_, err = client.UnaryCall(t.Context(), &testpb.SimpleRequest{FillUsername: true})
	wantCode(t, err, codes.Internal)
	stream, err := client.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, codes.Internal)

	metrics := r.scrape(t)
	for _, want := range []string{
		"grpc_server_panics_total 3",
		`grpc_server_handled_total{grpc_code="Internal",grpc_method="UnaryCall",grpc_service="grpc.testing.TestService",grpc_type="unary"} 2`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if log := r.log.String(); strings.Count(log, `"stack":"goroutine`) != 3 || !strings.Contains(log, secret) {
		t.Errorf("the log lacks the panics:\n%s", log)
	}
}

// scrape reads the metrics from the address that the log names.
func (r *running) scrape(t *testing.T) string {
	t.Helper()
	_, rest, _ := strings.Cut(r.log.String(), `"msg":"metrics","address":"`)
	address, _, _ := strings.Cut(rest, `"`)
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	return string(body)
}

// TestG15: neither metadata nor payloads are logged.
func TestG15(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, nil)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer s3cret-token")
	if _, err := r.client(t).UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte("s3cret-body")}}); err != nil {
		t.Fatal(err)
	}
	log := r.waitLog(t, "finished call")
	if strings.Contains(log, "s3cret") || strings.Contains(strings.ToLower(log), "bearer") {
		t.Errorf("the log gives away too much:\n%s", log)
	}
}

// A call with a line of the program's own has no second one, unless it failed or the
// level is debug.
func TestAuditedCallsHaveOneLine(t *testing.T) {
	t.Parallel()
	for level, want := range map[slog.Level]int{slog.LevelInfo: 0, slog.LevelDebug: 3} {
		r := run(t, &service{unary: func(_ context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			if in.GetFillUsername() {
				return nil, errors.New("no")
			}
			return &testpb.SimpleResponse{}, nil
		}}, func(c *Config) {
			c.LogLevel, c.Audited = Level(level), []string{testpb.TestService_UnaryCall_FullMethodName}
		})
		client := r.client(t)
		for range 3 {
			if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{FillUsername: true}); err == nil {
			t.Fatal("it worked")
		}
		log := r.waitLog(t, `"Internal"`)
		for end := time.Now().Add(5 * time.Second); strings.Count(log, `"grpc.code":"OK"`) < want && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			log = r.log.String() // each line is written after its call's answer
		}
		if got := strings.Count(log, `"grpc.code":"OK"`); got != want {
			t.Errorf("at %s: %d lines of calls that succeeded, want %d:\n%s", level, got, want, log)
		}
	}
}

// waitLog waits for a text in the log: a call's line is written after its answer.
func (r *running) waitLog(t *testing.T, text string) string {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		log := r.log.String()
		if strings.Contains(log, text) {
			return log
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in the log:\n%s", text, log)
		}
	}
}

func TestCauseIsShort(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 8<<20), strings.Repeat("é", maxCause), "\xff"} {
		if got := short(text); len(got) > maxCause+8 || strings.ToValidUTF8(got, "") != got {
			t.Errorf("%d bytes, valid: %v", len(got), strings.ToValidUTF8(got, "") == got)
		}
	}
}
