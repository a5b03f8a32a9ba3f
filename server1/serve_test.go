package server1

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/rule"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

func payment() *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200},
		RequestId: "8c7f1c9e-6f0f-4d42-8a55-8a8c3f8b2d11", Memo: "lunch",
	}
}

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	packed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// pay is a request that the policy lets a payer make.
func pay(t testing.TB) *handoffv1.IssueHandoffRequest {
	return &handoffv1.IssueHandoffRequest{Audience: billing, Method: payInvoice, Request: pack(t, payment())}
}

// wantReason checks an error's reason, and that its code is the reason's.
func wantReason(t *testing.T, what string, err error, want handoff.Reason) {
	t.Helper()
	wantCode := handoffgrpc.StatusOf(&handoff.Refusal{Reason: want}).Code()
	if got := handoffgrpc.ReasonOf(err); got != want || status.Code(err) != wantCode {
		t.Errorf("%s: got %v, %v; want %v, %v (%v)", what, got, status.Code(err), want, wantCode, err)
	}
}

// source lists the one key that the tests' verifier trusts.
type source struct{ key handoff.Key }

func (s source) Key(_ context.Context, kid string) (handoff.Key, error) {
	if kid != s.key.ID() {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return s.key, nil
}

type spent struct{}

func (spent) Redeem(context.Context, handoff.Redemption) error { return handoff.ErrReplayed }

func (s *site) verify(t *testing.T, raw string) *handoff.Verified {
	t.Helper()
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{issuerName: source{s.key.Key()}}, Store: spent{},
	})
	if err != nil {
		t.Fatal(err)
	}
	verified, err := verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	return verified
}

// open opens the server's database beside the server.
func (s *site) open(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+s.database+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// column returns the values of a query's one column.
func column(t *testing.T, db *sql.DB, query string, args ...any) (values []string) {
	t.Helper()
	rows, err := db.Query(query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return values
}

const issued = `SELECT handoff_id FROM audit WHERE event = 'handoff_issued' ORDER BY handoff_id`

func TestHandoff(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	ctx, _ := r.signIn(t, "alice")
	about, err := r.sessions().GetSession(ctx, &server1v1.GetSessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.handoffs().IssueHandoff(ctx, pay(t))
	if err != nil {
		t.Fatal(err)
	}

	verified := s.verify(t, resp.GetToken())
	claims := verified.Claims()
	db := s.open(t)
	if claims.Subject != about.GetDetails().GetUserId() || claims.ID != resp.GetHandoffId() ||
		!claims.Expires.Equal(resp.GetExpireTime().AsTime()) || resp.GetTarget() != "dns:///billing.example:443" {
		t.Errorf("claims %+v do not agree with the answer %v and the session %v", claims, resp, about)
	}
	if lifetime := claims.Expires.Sub(claims.IssuedAt); lifetime != 30*time.Second {
		t.Errorf("the token lives %s, want the policy's 30s", lifetime)
	}
	if sid := column(t, db, `SELECT handoff_id FROM sessions`); !slices.Equal(sid, []string{claims.Session}) {
		t.Errorf("sid %q, want the session's own %q", claims.Session, sid)
	}
	method, err := rule.Linked().Method(payInvoice)
	if err != nil {
		t.Fatal(err)
	}
	demands, _ := method.Rule()
	for what, c := range map[string]struct {
		change func(*server2v1.PayInvoiceRequest)
		want   handoff.Reason
	}{
		"the same request": {func(*server2v1.PayInvoiceRequest) {}, 0},
		"another memo":     {func(r *server2v1.PayInvoiceRequest) { r.Memo = "dinner" }, 0},
		"no memo":          {func(r *server2v1.PayInvoiceRequest) { r.Memo = "" }, 0},
		"another amount":   {func(r *server2v1.PayInvoiceRequest) { r.Amount.MinorUnits++ }, handoff.ReasonFieldMismatch},
	} {
		req := payment()
		c.change(req)
		op, err := method.Operation(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := handoff.ReasonOf(verified.Allows(op, demands)); got != c.want {
			t.Errorf("%s: got %v, want %v", what, got, c.want)
		}
	}
	row := column(t, db, `SELECT user_id || ' ' || session || ' ' || handoff_id || ' ' || audience || ' ' || method || ' ' || expires_at
		FROM audit WHERE event = 'handoff_issued'`)
	want := fmt.Sprint(claims.Subject, " ", claims.Session, " ", claims.ID, " ", billing, " ", payInvoice, " ", claims.Expires.UnixMilli())
	if !slices.Equal(row, []string{want}) {
		t.Errorf("audit %q, want %q", row, want)
	}
}

// The audience's methods can come from a file, as if they were not linked.
func TestDescriptors(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	var set descriptorpb.FileDescriptorSet
	for _, path := range []string{
		"google/protobuf/descriptor.proto", "google/protobuf/duration.proto", "google/protobuf/timestamp.proto",
		"handoff/v1/rule.proto", "handoff/server2/v1/invoice_service.proto",
	} {
		file, err := protoregistry.GlobalFiles.FindFileByPath(path)
		if err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	image, err := proto.Marshal(&set)
	if err != nil {
		t.Fatal(err)
	}
	r := s.start(t, map[string]string{"descriptors": s.write(t, "image.binpb", string(image), 0o644)})
	ctx, _ := r.signIn(t, "alice")
	resp, err := r.handoffs().IssueHandoff(ctx, pay(t))
	if err != nil {
		t.Fatal(err)
	}
	op, err := rule.Operation(payInvoice, payment())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.verify(t, resp.GetToken()).Allows(op, handoff.Rule{}); err != nil {
		t.Errorf("the token does not name the request: %v", err)
	}
}

func TestLifetimes(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, map[string]string{"lifetime": "45s", "max-lifetime": "120s"})
	ctx, _ := r.signIn(t, "alice")
	read := pack(t, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"})
	for _, c := range []struct {
		method  string
		request *anypb.Any
		asked   *durationpb.Duration
		want    time.Duration // 0: refused
	}{
		{payInvoice, pack(t, payment()), nil, 30 * time.Second},
		{payInvoice, pack(t, payment()), durationpb.New(time.Second), time.Second},
		{payInvoice, pack(t, payment()), durationpb.New(30 * time.Second), 30 * time.Second},
		{payInvoice, pack(t, payment()), durationpb.New(31 * time.Second), 0},
		{getInvoice, read, nil, 45 * time.Second},
		{getInvoice, read, durationpb.New(120 * time.Second), 120 * time.Second},
		{getInvoice, read, durationpb.New(121 * time.Second), 0},
		{getInvoice, read, durationpb.New(0), 0},
		{getInvoice, read, durationpb.New(-time.Second), 0},
		{getInvoice, read, durationpb.New(1500 * time.Millisecond), 0},
		{getInvoice, read, &durationpb.Duration{Seconds: 1 << 62}, 0},
		{getInvoice, read, &durationpb.Duration{Seconds: 60, Nanos: -1}, 0},
	} {
		resp, err := r.handoffs().IssueHandoff(ctx, &handoffv1.IssueHandoffRequest{
			Audience: billing, Method: c.method, Request: c.request, Lifetime: c.asked,
		})
		if c.want == 0 {
			wantField(t, c.asked.String(), err, handoff.ReasonArgumentInvalid, "lifetime")
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c.asked, err)
			continue
		}
		claims := s.verify(t, resp.GetToken()).Claims()
		if got := claims.Expires.Sub(claims.IssuedAt); got != c.want {
			t.Errorf("%s, asked %v: lives %s, want %s", c.method, c.asked, got, c.want)
		}
	}
}

// wantField checks that an error names the field that is wrong.
func wantField(t *testing.T, what string, err error, reason handoff.Reason, field string) {
	t.Helper()
	wantReason(t, what, err, reason)
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok && len(bad.GetFieldViolations()) == 1 {
			got := bad.GetFieldViolations()[0]
			if got.GetField() != field || got.GetDescription() == "" {
				t.Errorf("%s: names %v, want the field %q", what, got, field)
			}
			if text := status.Convert(err).Message(); !strings.HasSuffix(text, got.GetDescription()) ||
				reason == handoff.ReasonArgumentInvalid && !strings.HasPrefix(text, cmp.Or(field, "the request")) && field != "request" {
				t.Errorf("%s: the text %q does not say what %v says", what, text, got)
			}
			return
		}
	}
	t.Errorf("%s: no field is named in %v", what, err)
}

func TestBadRequests(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	ctx, _ := r.signIn(t, "alice")
	unknown := payment()
	unknown.Amount.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01})
	for name, c := range map[string]struct {
		change func(*handoffv1.IssueHandoffRequest)
		reason handoff.Reason
		field  string
	}{
		"no audience":      {func(r *handoffv1.IssueHandoffRequest) { r.Audience = "" }, handoff.ReasonArgumentInvalid, "audience"},
		"another audience": {func(r *handoffv1.IssueHandoffRequest) { r.Audience += "/" }, handoff.ReasonArgumentInvalid, "audience"},
		"no method":        {func(r *handoffv1.IssueHandoffRequest) { r.Method = "" }, handoff.ReasonArgumentInvalid, "method"},
		"unknown method":   {func(r *handoffv1.IssueHandoffRequest) { r.Method += "s" }, handoff.ReasonArgumentInvalid, "method"},
		"ruleless method": {
			func(r *handoffv1.IssueHandoffRequest) { r.Method = server1v1.SessionService_SignIn_FullMethodName },
			handoff.ReasonArgumentInvalid, "method",
		},
		"no request": {func(r *handoffv1.IssueHandoffRequest) { r.Request = nil }, handoff.ReasonArgumentInvalid, "request"},
		"another type": {
			func(r *handoffv1.IssueHandoffRequest) { r.Request = pack(t, &server2v1.GetInvoiceRequest{}) },
			handoff.ReasonArgumentInvalid, "request",
		},
		"not the type": {
			func(r *handoffv1.IssueHandoffRequest) { r.Request.Value = []byte{0xff} },
			handoff.ReasonArgumentInvalid, "request",
		},
		"a field within the request that its type lacks": {
			func(r *handoffv1.IssueHandoffRequest) { r.Request = pack(t, unknown) },
			handoff.ReasonRequestUnbindable, "request.amount",
		},
		"a field that this server does not know": {
			func(r *handoffv1.IssueHandoffRequest) { r.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01}) },
			handoff.ReasonArgumentInvalid, "",
		},
		"one within the packed request's own message": {
			func(r *handoffv1.IssueHandoffRequest) { r.Request.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01}) },
			handoff.ReasonArgumentInvalid, "request",
		},
		"one within the lifetime": {
			func(r *handoffv1.IssueHandoffRequest) {
				r.Lifetime = durationpb.New(time.Second)
				r.Lifetime.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01})
			},
			handoff.ReasonArgumentInvalid, "lifetime",
		},
	} {
		req := pay(t)
		c.change(req)
		resp, err := r.handoffs().IssueHandoff(ctx, req)
		wantField(t, name, err, c.reason, c.field)
		if resp.GetToken() != "" {
			t.Errorf("%s: a token was handed out", name)
		}
	}
	for name, c := range map[string]struct {
		req   *server1v1.SignInRequest
		field string
	}{
		"no name":            {&server1v1.SignInRequest{Password: "x"}, "user_name"},
		"a name with a line": {&server1v1.SignInRequest{UserName: "alice\nroot", Password: "x"}, "user_name"},
		"a long name":        {&server1v1.SignInRequest{UserName: strings.Repeat("a", 65), Password: "x"}, "user_name"},
		"no password":        {&server1v1.SignInRequest{UserName: "alice"}, "password"},
		"a long password":    {&server1v1.SignInRequest{UserName: "alice", Password: strings.Repeat("x", 257)}, "password"},
	} {
		_, err := r.sessions().SignIn(t.Context(), c.req)
		wantField(t, name, err, handoff.ReasonArgumentInvalid, c.field)
	}
	if got := column(t, s.open(t), issued); len(got) != 0 {
		t.Errorf("refused handoffs are recorded as issued: %q", got)
	}
}

// TestUnknownFields calls each method of each service of SERVER1 with a field that no
// request has.
func TestUnknownFields(t *testing.T) {
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing())
	ctx, _ := r.signIn(t, "alice")
	called := 0
	for _, service := range []string{"handoff.server1.v1.SessionService", "handoff.v1.HandoffService", "handoff.v1.TrustService", "grpc.health.v1.Health"} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			method := methods.Get(i)
			req, resp := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
			req.SetUnknown([]byte{0x98, 0x06, 0x01}) // field 99
			name := fmt.Sprintf("/%s/%s", service, method.Name())
			stream, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
			if err == nil {
				err = errors.Join(stream.SendMsg(req), stream.CloseSend())
			}
			if err != nil {
				t.Fatal(err)
			}
			wantField(t, name, stream.RecvMsg(resp), handoff.ReasonArgumentInvalid, "")
			called++
		}
	}
	if called < 9 {
		t.Errorf("only %d methods were called", called)
	}
}

func TestPolicyDecides(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "rita", "reader")
	s.addUser(t, "nora")
	r := s.start(t, nil)
	export := server2v1.InvoiceService_ExportPayments_FullMethodName
	for _, c := range []struct {
		user, method string
		request      proto.Message
		want         handoff.Reason
	}{
		{"alice", payInvoice, payment(), 0},
		{"alice", getInvoice, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, 0},
		{"alice", export, &server2v1.ExportPaymentsRequest{}, handoff.ReasonPolicyDenied}, // listed for nobody
		{"rita", payInvoice, payment(), handoff.ReasonPolicyDenied},
		{"rita", getInvoice, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, 0},
		{"nora", getInvoice, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, handoff.ReasonPolicyDenied},
	} {
		ctx, _ := r.signIn(t, c.user)
		_, err := r.handoffs().IssueHandoff(ctx, &handoffv1.IssueHandoffRequest{
			Audience: billing, Method: c.method, Request: pack(t, c.request),
		})
		if c.want == 0 {
			if err != nil {
				t.Errorf("%s, %s: %v", c.user, c.method, err)
			}
			continue
		}
		wantReason(t, c.user+" "+c.method, err, c.want)
	}
}

// Every method but those that are named in open needs exactly one live session.
func TestG01G02SessionIsRequired(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	_, id := r.signIn(t, "alice")
	ended, endedID := r.signIn(t, "alice")
	if _, err := r.sessions().SignOut(ended, &server1v1.SignOutRequest{}); err != nil {
		t.Fatal(err)
	}
	handed, err := r.handoffs().IssueHandoff(with(t, "Bearer "+id), pay(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{
		server1v1.SessionService_SignOut_FullMethodName,
		server1v1.SessionService_GetSession_FullMethodName,
		handoffv1.HandoffService_IssueHandoff_FullMethodName,
	} {
		for name, ctx := range map[string]context.Context{
			"none":                  t.Context(),
			"empty":                 with(t, ""),
			"no id":                 with(t, "Bearer "),
			"another scheme":        with(t, "Basic "+id),
			"the scheme elsewise":   with(t, "bearer "+id),
			"two spaces":            with(t, "Bearer  "+id),
			"a space behind":        with(t, "Bearer "+id+" x"),
			"an unknown id":         with(t, "Bearer "+strings.Repeat("A", 43)),
			"a prefix of an id":     with(t, "Bearer "+id[:42]),
			"a handoff token":       with(t, "Bearer "+handed.GetToken()),
			"a handoff's own id":    with(t, "Bearer "+s.verify(t, handed.GetToken()).Claims().Session),
			"the same twice":        with(t, "Bearer "+id, "Bearer "+id),
			"a live and a dead":     with(t, "Bearer "+id, "Bearer "+endedID),
			"signed out":            with(t, "Bearer "+endedID),
			"binary beside":         metadata.AppendToOutgoingContext(with(t, "Bearer "+id), "authorization-bin", "x"),
			"a megabyte of nothing": with(t, "Bearer "+strings.Repeat("A", 8<<10)),
		} {
			want := handoff.ReasonSessionInvalid
			if name == "a handoff token" && method == handoffv1.HandoffService_IssueHandoff_FullMethodName {
				want = handoff.ReasonClientInvalid // a JWT is a client's
			}
			err := r.conn.Invoke(ctx, method, &server1v1.GetSessionRequest{}, &server1v1.GetSessionResponse{})
			wantReason(t, method+" with "+name, err, want)
		}
	}
	if _, err := r.sessions().GetSession(with(t, "Bearer "+id), &server1v1.GetSessionRequest{}); err != nil {
		t.Errorf("the live session: %v", err)
	}
	if _, err := healthpb.NewHealthClient(r.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health needs no session: %v", err)
	}
}

// Who cannot sign in learns only that.
func TestH06SignInRefusalsAreAlike(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "mallory", "payer")
	r := s.start(t, nil)
	if _, err := s.open(t).Exec(`UPDATE users SET disabled_at = 1 WHERE name = 'mallory'`); err != nil {
		t.Fatal(err)
	}
	var first *status.Status
	for name, req := range map[string]*server1v1.SignInRequest{
		"a wrong password": {UserName: "alice", Password: password + "!"},
		"nobody":           {UserName: "nobody", Password: password},
		"a disabled user":  {UserName: "mallory", Password: password},
	} {
		_, err := r.sessions().SignIn(t.Context(), req)
		wantReason(t, name, err, handoff.ReasonSessionInvalid)
		if first == nil {
			first = status.Convert(err)
		}
		if got := status.Convert(err); !proto.Equal(got.Proto(), first.Proto()) {
			t.Errorf("%s is told %v, another %v", name, got, first)
		}
	}
}

// A session that the caller presents is not the one that a sign-in makes.
func TestH04SessionFixation(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	ctx, id := r.signIn(t, "alice")
	seen := map[string]bool{id: true}
	for range 3 {
		resp, err := r.sessions().SignIn(ctx, &server1v1.SignInRequest{UserName: "alice", Password: password})
		if err != nil {
			t.Fatal(err)
		}
		if seen[resp.GetSession()] || len(resp.GetSession()) != 43 {
			t.Errorf("a session id is not new, or not 43 characters")
		}
		seen[resp.GetSession()] = true
	}
	sids := column(t, s.open(t), `SELECT DISTINCT handoff_id FROM sessions`)
	if len(sids) != len(seen) {
		t.Errorf("%d sids for %d sessions", len(sids), len(seen))
	}
	for id := range seen {
		if n := column(t, s.open(t), `SELECT COUNT(*) FROM sessions WHERE id_sha256 = $1 OR handoff_id = $1 OR user_id = $1`, id); n[0] != "0" {
			t.Error("the database has a session id itself")
		}
	}
}

func TestSignInLimit(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "bob", "payer")
	r := s.start(t, map[string]string{"sign-in-attempts": "3"})
	for range 3 {
		_, err := r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: "wrong password"})
		wantReason(t, "within the limit", err, handoff.ReasonSessionInvalid)
	}
	_, err := r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: password})
	wantReason(t, "above the limit, with the right password", err, handoff.ReasonLimitExceeded)
	r.signIn(t, "bob") // another account is not affected
}

// What was answered is what is recorded, neither more nor less.
func TestH12EveryAnsweredHandoffIsRecorded(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	ctx, _ := r.signIn(t, "alice")
	var (
		mu       sync.Mutex
		answered []string
		wg       sync.WaitGroup
	)
	for range 16 {
		wg.Go(func() {
			for range 10 {
				resp, err := r.handoffs().IssueHandoff(ctx, pay(t))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				answered = append(answered, resp.GetHandoffId())
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(answered)
	if recorded := column(t, s.open(t), issued); !slices.Equal(recorded, answered) {
		t.Errorf("%d handoffs recorded, %d answered", len(recorded), len(answered))
	}
}

// A handoff that is under way when its session ends is refused or recorded
// before the end, never after.
func TestSignOutEndsHandoffs(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	for range 3 {
		ctx, _ := r.signIn(t, "alice")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					if _, err := r.handoffs().IssueHandoff(ctx, pay(t)); err != nil {
						wantReason(t, "after signing out", err, handoff.ReasonSessionInvalid)
						return
					}
				}
			})
		}
		time.Sleep(20 * time.Millisecond) // so that some are under way
		if _, err := r.sessions().SignOut(ctx, &server1v1.SignOutRequest{}); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
	late := column(t, s.open(t), `SELECT COUNT(*) FROM audit AS issued JOIN audit AS ended ON ended.session = issued.session
		WHERE issued.event = 'handoff_issued' AND ended.event = 'signed_out' AND issued.rowid > ended.rowid`)
	if late[0] != "0" {
		t.Errorf("%s handoffs were issued after their session's end", late[0])
	}
}

// A database that cannot write hands out nothing and keeps nothing.
func TestH12DatabaseThatCannotWrite(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	ctx, _ := r.signIn(t, "alice")
	db := s.open(t)
	count := `SELECT (SELECT COUNT(*) FROM sessions) || ' ' || (SELECT COUNT(*) FROM audit)`
	before := column(t, db, count)

	for name, stop := range map[string]func() (start func() error){
		"locked": func() func() error {
			lock, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			return lock.Rollback
		},
		"failing": func() func() error {
			const trigger = `CREATE TRIGGER failing BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END`
			if _, err := db.Exec(trigger); err != nil {
				t.Fatal(err)
			}
			return func() error { _, err := db.Exec(`DROP TRIGGER failing`); return err }
		},
	} {
		start := stop()
		resp, err := r.handoffs().IssueHandoff(ctx, pay(t))
		wantReason(t, name+": a handoff", err, handoff.ReasonIssuerUnavailable)
		if resp.GetToken() != "" {
			t.Errorf("%s: a token was handed out", name)
		}
		_, err = r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: password})
		wantReason(t, name+": a sign-in", err, handoff.ReasonIssuerUnavailable)
		_, err = r.sessions().SignOut(ctx, &server1v1.SignOutRequest{})
		wantReason(t, name+": a sign-out", err, handoff.ReasonIssuerUnavailable)
		if err := start(); err != nil {
			t.Fatal(err)
		}
		if after := column(t, db, count); !slices.Equal(after, before) {
			t.Errorf("%s: sessions and events were %s, are %s", name, before, after)
		}
	}
	if _, err := r.handoffs().IssueHandoff(ctx, pay(t)); err != nil {
		t.Errorf("once it can write again: %v", err)
	}
}

// The log has neither secrets nor what a stranger wrote.
func TestH08G15LogKeepsSecrets(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, map[string]string{"log-level": "debug"})
	ctx, id := r.signIn(t, "alice")
	resp, err := r.handoffs().IssueHandoff(ctx, pay(t))
	if err != nil {
		t.Fatal(err)
	}
	const strange = "stranger-was-here"
	for _, err := range []error{
		second(r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: strange, Password: strange})),
		second(r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: strange})),
		second(r.sessions().GetSession(with(t, "Bearer "+strange), &server1v1.GetSessionRequest{})),
		second(r.handoffs().IssueHandoff(ctx, &handoffv1.IssueHandoffRequest{Audience: strange, Method: strange})),
		second(r.handoffs().IssueHandoff(ctx, &handoffv1.IssueHandoffRequest{Audience: billing, Method: payInvoice, Request: &anypb.Any{TypeUrl: strange}})),
	} {
		if err == nil || strings.Contains(err.Error(), strange) {
			t.Errorf("got %v; want a refusal that does not repeat what was sent", err)
		}
	}
	if _, err := r.sessions().SignOut(ctx, &server1v1.SignOutRequest{}); err != nil {
		t.Fatal(err)
	}
	log := r.log.String()
	for what, secret := range map[string]string{
		"a session id": id, "a token": resp.GetToken(), "a signature": resp.GetToken()[len(resp.GetToken())-40:],
		"a password": password, "a stranger's text": strange, "a value of a request": "INV-42",
		"a hash": "$argon2id$", "a sid": s.verify(t, resp.GetToken()).Claims().Session,
	} {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %s:\n%s", what, log)
		}
	}
	for _, line := range []string{
		`"issued"`, resp.GetHandoffId(), `"signed_in"`, `"signed_out"`, `"refused"`,
		handoff.ReasonSessionInvalid.String(),
		handoff.ReasonArgumentInvalid.String(),
	} {
		if !strings.Contains(log, line) {
			t.Errorf("the log does not have %s:\n%s", line, log)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// What was not asked for is not there.
func TestG11Reflection(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		flag string
		want codes.Code
	}{{"false", codes.Unimplemented}, {"true", codes.OK}} {
		r := s.start(t, map[string]string{"reflection": c.flag})
		stream, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ask := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
		if err := stream.Send(ask); err != nil && !errors.Is(err, io.EOF) { // which says: see what Recv says
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != c.want {
			t.Errorf("--reflection=%s: got %v, want %v", c.flag, err, c.want)
		}
	}
	var never server1v1.SignOutResponse
	err := s.start(t, nil).conn.Invoke(t.Context(), "/grpc.channelz.v1.Channelz/GetServers", &server1v1.SignOutRequest{}, &never, grpc.WaitForReady(true))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("channelz: got %v", err)
	}
}

func TestUserCommands(t *testing.T) {
	s := newSite(t)
	good, refused := s.path("server1.db"), s.path("refused.db")
	db := good
	command := func(stdin string, args ...string) (status int, stdout, stderr string) {
		var out, complaint bytes.Buffer
		status = run(t.Context(), args, []string{"HANDOFF_SERVER1_DATABASE=" + db}, strings.NewReader(stdin), &out, &complaint)
		return status, out.String(), complaint.String()
	}
	if status, _, stderr := command("", "user", "list"); status != 2 || !strings.Contains(stderr, "--database") {
		t.Errorf("listing users of no database: exit status %d, %q", status, stderr)
	}
	for name, c := range map[string]struct {
		stdin  string
		args   []string
		status int
	}{
		"a user":            {password + "\n", []string{"--name", "alice", "--role", "payer,reader"}, 0},
		"no line end":       {password, []string{"--name", "bob"}, 0},
		"no password":       {"", []string{"--name", "carol"}, 1},
		"a short password":  {"1234567\n", []string{"--name", "carol"}, 1},
		"a long password":   {strings.Repeat("x", 257) + "\n", []string{"--name", "carol"}, 1},
		"two lines":         {password + "\n" + password + "\n", []string{"--name", "carol"}, 1},
		"Latin-1":           {"contrase\xf1a\n", []string{"--name", "carol"}, 1},
		"a byte order mark": {"\ufeff" + password + "\r\n", []string{"--name", "carol"}, 1},
		"UTF-16":            {"p\x00a\x00s\x00s\x00w\x00o\x00r\x00d\x00", []string{"--name", "carol"}, 1},
		"no name":           {password, nil, 2},
		"a bad name":        {password, []string{"--name", "Carol"}, 2},
		"a bad role":        {password, []string{"--name", "carol", "--role", "Payer"}, 2},
		"an argument":       {password, []string{"--name", "carol", "--password", password}, 2},
		"one more argument": {password, []string{"--name", "carol", password}, 2},
	} {
		if db = good; c.status != 0 {
			db = refused
		}
		status, stdout, stderr := command(c.stdin, append([]string{"user", "add"}, c.args...)...)
		if status != c.status || (status == 0) != (stderr == "") || (status == 0) != (stdout != "") {
			t.Errorf("%s: exit status %d, want %d; stdout %q, stderr %q", name, status, c.status, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, password) && name != "one more argument" {
			t.Errorf("%s: the password is shown", name)
		}
	}
	if _, err := os.Stat(refused); !os.IsNotExist(err) {
		t.Errorf("what was refused has left a database: %v", err)
	}
	db = good
	if status, _, stderr := command(password, "user", "add", "--name", "alice"); status != 1 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("a second alice: exit status %d, %q", status, stderr)
	}
	status, stdout, _ := command("", "user", "list")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if status != 0 || len(lines) != 3 || !strings.HasPrefix(lines[1], "alice ") || !strings.Contains(lines[1], "payer,reader") ||
		!strings.HasPrefix(lines[2], "bob ") || !strings.Contains(lines[2], "none") {
		t.Errorf("exit status %d, listed:\n%s", status, stdout)
	}
}

// An operator helps a user whose password is lost, who was disabled by mistake, or
// whose tasks have changed, while the server runs.
func TestUserIsHelped(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "reader")
	r := s.start(t, nil)
	operate := func(stdin string, args ...string) (int, string) {
		var out, complaint bytes.Buffer
		status := run(t.Context(), append([]string{"user"}, args...), []string{"HANDOFF_SERVER1_DATABASE=" + s.database},
			strings.NewReader(stdin), &out, &complaint)
		return status, out.String() + complaint.String()
	}
	signIn := func(password string) (context.Context, error) {
		resp, err := r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: password})
		return with(t, "Bearer "+resp.GetSession()), err
	}
	old, err := signIn(password)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.handoffs().IssueHandoff(old, pay(t)); handoffgrpc.ReasonOf(err) != handoff.ReasonPolicyDenied {
		t.Errorf("without the role: %v", err)
	}
	if status, said := operate("", "role", "alice", "--add", "payer", "--remove", "reader"); status != 0 || !strings.Contains(said, "alice has the roles payer\n") {
		t.Errorf("role: %d, %s", status, said)
	}
	if _, err := r.handoffs().IssueHandoff(old, pay(t)); err != nil {
		t.Errorf("with the role, in the same session: %v", err)
	}
	if status, said := operate(password+"!\n", "password", "alice"); status != 0 || !strings.Contains(said, "every session has ended") || strings.Contains(said, password) {
		t.Errorf("password: %d, %s", status, said)
	}
	if _, err := r.handoffs().IssueHandoff(old, pay(t)); handoffgrpc.ReasonOf(err) != handoff.ReasonSessionInvalid {
		t.Errorf("the old session: %v", err)
	}
	if _, err := signIn(password); err == nil {
		t.Error("the old password signs in")
	}
	if _, err := signIn(password + "!"); err != nil {
		t.Errorf("the new password: %v", err)
	}
	for _, c := range []struct {
		command string
		in      bool
	}{{"disable", false}, {"enable", true}} {
		if status, said := operate("", c.command, "alice"); status != 0 || !strings.HasPrefix(said, c.command+"d alice") {
			t.Errorf("%s: %d, %s", c.command, status, said)
		}
		if _, err := signIn(password + "!"); (err == nil) != c.in {
			t.Errorf("%s: a sign-in: %v", c.command, err)
		}
	}
	for _, c := range []struct {
		stdin  string
		args   []string
		status int
		says   string
	}{
		{"", []string{"enable", "nobody"}, 1, `there is no user "nobody"`},
		{password, []string{"password", "nobody"}, 1, `there is no user "nobody"`},
		{"short", []string{"password", "alice"}, 1, "a password has 8 to 256 bytes"},
		{"", []string{"role", "nobody", "--add", "payer"}, 1, `there is no user "nobody"`},
		{"", []string{"role", "alice"}, 2, "--add or --remove is required"},
		{"", []string{"role", "alice", "--add", "Payer"}, 2, "--add must be"},
		{"", []string{"role", "alice", "--add", "payer", "--remove", "payer"}, 2, "--remove has payer, which --add has as well"},
	} {
		if status, said := operate(c.stdin, c.args...); status != c.status || !strings.Contains(said, c.says) {
			t.Errorf("%q: %d, %s", c.args, status, said)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	s := newSite(b)
	s.addUser(b, "alice", "payer")
	r := s.start(b, map[string]string{"log-level": "error"})
	ctx, _ := r.signIn(b, "alice")
	req := pay(b)
	b.ResetTimer()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.handoffs().IssueHandoff(ctx, req); err != nil {
				b.Fatal(err)
			}
		}
	})
}
