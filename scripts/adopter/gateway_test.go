package adopter

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"

	gateway "example.com/adopter/gateway/billing/v1"
	billingv1 "example.com/adopter/proto/billing/v1"
)

const payJSON = `{"invoiceId": "INV-1", "cents": "1200"}`

// answered is what a gateway says in JSON.
type answered struct {
	status    int
	ReceiptID string     `json:"receiptId"`
	Code      codes.Code `json:"code"`
	Details   []detail   `json:"details"`

	Result struct { // of a stream
		InvoiceID string `json:"invoiceId"`
	} `json:"result"`
	Error struct {
		Code    codes.Code `json:"code"`
		Details []detail   `json:"details"`
	} `json:"error"`
}

type detail struct {
	Type   string `json:"@type"`
	Reason string `json:"reason"`
}

// post makes a call. Of a stream it reads the first message.
func post(t *testing.T, mux http.Handler, method, body, token string, headers ...string) answered {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, method, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	if token != "" {
		r.Header.Add("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	a := answered{status: w.Code}
	if err := json.NewDecoder(w.Body).Decode(&a); err != nil {
		t.Errorf("%s: %d, %v", method, w.Code, err)
	}
	return a
}

// wantReason checks that a refusal says why, as those over gRPC do.
func wantReason(t *testing.T, what string, details []detail, want handoff.Reason) {
	t.Helper()
	for _, d := range details {
		if d.Type == "type.googleapis.com/google.rpc.ErrorInfo" && d.Reason == want.String() {
			return
		}
	}
	t.Errorf("%s: %+v, want %s", what, details, want)
}

// everybodys is Billing for any issuer's users. Metadata beyond what README.md says a
// gateway sends is an error.
type everybodys struct{ Billing }

func (everybodys) Pay(ctx context.Context, _ *billingv1.PayRequest) (*billingv1.PayResponse, error) {
	grant, ok := handoff.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Internal, "no grant")
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for name, values := range md {
		if !slices.Contains([]string{
			":authority", "authorization", "content-type", "grpc-accept-encoding", "user-agent", "x-forwarded-for", "x-forwarded-host",
		}, name) || len(values) != 1 {
			return nil, status.Errorf(codes.Internal, "the gateway sends %d values of %s", len(values), name)
		}
	}
	return &billingv1.PayResponse{ReceiptId: grant.ID()}, nil
}

func (everybodys) List(_ *billingv1.ListRequest, stream grpc.ServerStreamingServer[billingv1.ListResponse]) error {
	return stream.Send(&billingv1.ListResponse{InvoiceId: "INV-1"})
}

// A grpc-gateway before the guarded server carries the token there, and the reason of a
// refusal back.
func TestGateway(t *testing.T) {
	server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { billingv1.RegisterBillingServer(s, everybodys{}) })
	mux, err := NewGateway(t.Context(), server.Conn)
	if err != nil {
		t.Fatal(err)
	}
	const pay, list = billingv1.Billing_Pay_FullMethodName, billingv1.Billing_List_FullMethodName
	token := func(method string, request proto.Message) string { return server.Token(t, "u-1", method, request) }
	request := &billingv1.PayRequest{InvoiceId: "INV-1", Cents: 1200}

	raw := token(pay, request)
	other := post(t, mux, pay, strings.Replace(payJSON, "1200", "1", 1), raw)
	wantReason(t, "another amount", other.Details, handoff.ReasonFieldMismatch)
	if other.status != http.StatusForbidden || other.Code != codes.PermissionDenied {
		t.Errorf("another amount: %+v", other)
	}
	if paid := post(t, mux, pay, payJSON, raw); paid.status != http.StatusOK || paid.ReceiptID == "" {
		t.Errorf("the payment: %+v", paid)
	}
	again := post(t, mux, pay, payJSON, raw)
	wantReason(t, "again", again.Details, handoff.ReasonTokenReplayed)
	wantReason(t, "no token", post(t, mux, pay, payJSON, "").Details, handoff.ReasonTokenMissing)

	if listed := post(t, mux, list, `{}`, token(list, &billingv1.ListRequest{})); listed.status != http.StatusOK || listed.Result.InvoiceID != "INV-1" {
		t.Errorf("a stream: %+v", listed)
	}
	refused := post(t, mux, list, `{}`, raw)
	wantReason(t, "a stream with another method's token", append(refused.Details, refused.Error.Details...), handoff.ReasonMethodMismatch)

	// A gateway that links no error details cannot write them, and says so in place of why.
	// The code that is generated for it does not link them.
	linked, err := exec.Command("go", "list", "-deps", "./gateway/...").Output()
	if err != nil || !strings.Contains(string(linked), "grpc-gateway/v2/runtime") || strings.Contains(string(linked), "/errdetails") {
		t.Errorf("what a gateway links: %v\n%s", err, linked)
	}
	unlinked := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
		MarshalOptions: protojson.MarshalOptions{Resolver: new(protoregistry.Types)},
	}))
	if err := gateway.RegisterBillingHandler(t.Context(), unlinked, server.Conn); err != nil {
		t.Fatal(err)
	}
	if again := post(t, unlinked, pay, payJSON, raw); again.status != http.StatusInternalServerError || again.Code != codes.Internal {
		t.Errorf("without error details: %+v", again)
	}
}

// What a gateway would make of these by default is calls that nobody signed for, or more
// than the server would read itself. The token of all of them is good, and stays so.
func TestGatewayRefuses(t *testing.T) {
	server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { billingv1.RegisterBillingServer(s, everybodys{}) })
	mux, err := NewGateway(t.Context(), server.Conn)
	if err != nil {
		t.Fatal(err)
	}
	const pay = billingv1.Billing_Pay_FullMethodName
	raw := server.Token(t, "u-1", pay, &billingv1.PayRequest{InvoiceId: "INV-1", Cents: 1200})
	for what, body := range map[string]string{
		"an unknown member":      strings.Replace(payJSON, "}", `, "tip": "500"}`, 1),
		"a member twice":         strings.Replace(payJSON, "}", `, "cents": "1200"}`, 1),
		"another document after": payJSON + strings.Replace(payJSON, "1200", "1", 1),
		"garbage after":          payJSON + "]",
		"a long body":            payJSON + strings.Repeat(" ", 64<<20),
		"a long member":          strings.Replace(payJSON, "}", `, "memo": "`+strings.Repeat("m", 64<<10)+`"}`, 1),
		"no body":                "",
	} {
		if got := post(t, mux, pay, body, raw); got.status != http.StatusBadRequest || got.Code != codes.InvalidArgument {
			t.Errorf("%s: %+v", what, got)
		}
	}
	wantReason(t, "a token in metadata", post(t, mux, pay, payJSON, "", "Grpc-Metadata-Authorization", "Bearer "+raw).Details, handoff.ReasonTokenMissing)
	if got := post(t, mux, pay, payJSON, raw, "Authorization", "Bearer "+raw); got.status == http.StatusOK {
		t.Errorf("two tokens: %+v", got)
	}
	paid := post(t, mux, pay, payJSON, raw, // everybodys looks at what arrives
		"Cookie", "session=1", "Origin", "https://evil.example", "Grpc-Metadata-Internal-Admin", "1", "Grpc-Metadata-Authorization", "Bearer other")
	if paid.status != http.StatusOK || paid.ReceiptID == "" {
		t.Errorf("the payment, with headers that are to be dropped: %+v", paid)
	}
}

// The handlers that call the service without gRPC go around the guard: its own check that
// there is a grant is what refuses then.
func TestGatewayAroundTheGuard(t *testing.T) {
	mux := runtime.NewServeMux()
	if err := gateway.RegisterBillingHandlerServer(t.Context(), mux, Billing{Owner: "u-1"}); err != nil {
		t.Fatal(err)
	}
	if paid := post(t, mux, billingv1.Billing_Pay_FullMethodName, payJSON, ""); paid.status != http.StatusInternalServerError || paid.ReceiptID != "" {
		t.Errorf("without a grant: %+v", paid)
	}
}
