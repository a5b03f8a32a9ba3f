package handoffgrpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

func refusedAsUnplanned(err error) bool {
	want := handoffgrpc.StatusOf(&handoff.Refusal{Reason: handoff.ReasonRuleMissing})
	return proto.Equal(status.Convert(err).Proto(), want.Proto()) || refusedAsUnchecked(err)
}

// refusedAsUnchecked reports whether the answer says what has been forgotten.
func refusedAsUnchecked(err error) bool {
	return handoffgrpc.ReasonOf(err) == handoff.ReasonRuleMissing && strings.Contains(status.Convert(err).Message(), "Guard.Check has not succeeded")
}

// A forgotten Check is called so, to the caller and to the log.
func TestForgottenCheck(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client, server := tlsPair()
	conn := dial(t, start(t, k.server(grpc.Creds(credentials.NewTLS(server)))), credentials.NewTLS(client))
	if _, err := server2v1.NewInvoiceServiceClient(conn).PayInvoice(bearer(t, k.pay(t)), payment()); !refusedAsUnchecked(err) {
		t.Errorf("%v", err)
	}
	if events := k.take(); len(events) != 1 || !strings.Contains(events[0].Refusal.Error(), "Guard.Check has not been called") {
		t.Errorf("told %+v", events)
	}
	if names := k.guard.Methods(); names != nil {
		t.Errorf("it guards %v before Check", names)
	}
	k.check(t)
	if names := k.guard.Methods(); !slices.Contains(names, server2v1.InvoiceService_PayInvoice_FullMethodName) || !slices.IsSorted(names) {
		t.Errorf("after Check it guards %v", names)
	}
	if _, err := k.guard.Unary(t.Context(), payment(), "/a.B/C", nil); !refusedAsUnplanned(err) || refusedAsUnchecked(err) {
		t.Errorf("a method that a checked server does not have: %v", err)
	}
}

// Until Check has succeeded every call is refused, exempt ones too, and so again once it has failed.
func TestNothingRunsUnchecked(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	conn := k.serve(t)
	calls := func() (refused, ran int) {
		t.Helper()
		stream, err := server2v1.NewInvoiceServiceClient(conn).ExportPayments(bearer(t, k.export(t)), &server2v1.ExportPaymentsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, unary := server2v1.NewInvoiceServiceClient(conn).PayInvoice(bearer(t, k.pay(t)), payment())
		_, streamed := stream.Recv()
		_, exempt := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		for _, err := range []error{unary, streamed, exempt} {
			if refusedAsUnplanned(err) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		return refused, len(k.handlers())
	}
	if refused, ran := calls(); refused != 0 || ran != 2 {
		t.Fatalf("checked: %d refused, %d ran", refused, ran)
	}
	// An empty server lacks what Exempt names.
	if err := k.guard.Check(grpc.NewServer()); err == nil {
		t.Fatal("Check passed a server without the exempt service")
	}
	if refused, ran := calls(); refused != 3 || ran != 0 {
		t.Errorf("after a failed check: %d refused, %d ran", refused, ran)
	}
	if err := k.guard.Check(k.server()); err != nil {
		t.Fatal(err)
	}
	if refused, _ := calls(); refused != 0 {
		t.Errorf("checked again: %d refused", refused)
	}
}

// G12: a method that was registered after Check, or that nobody thought of, does not run.
func TestMethodsThatCheckDidNotSee(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	k.check(t)
	ran := false
	_, err := k.guard.Unary(t.Context(), payment(), "/handoff.server2.v1.InvoiceService/Refund",
		func(context.Context, any) (any, error) { ran = true; return nil, nil })
	if !refusedAsUnplanned(err) || ran {
		t.Errorf("err %v, ran %t", err, ran)
	}
}

// rules are the services that TestCheckRefuses registers, a method each, on server2's request.
func rules(t *testing.T) {
	t.Helper()
	if _, err := protoregistry.GlobalFiles.FindFileByPath("guardtest.proto"); err == nil {
		return // by an earlier run in this process
	}
	ruled := func(r *handoffv1.Rule) *descriptorpb.MethodOptions {
		options := &descriptorpb.MethodOptions{}
		proto.SetExtension(options, handoffv1.E_Rule, r)
		return options
	}
	method := func(name string, options *descriptorpb.MethodOptions) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{
			Name: proto.String(name), Options: options,
			InputType: proto.String(".handoff.server2.v1.PayInvoiceRequest"), OutputType: proto.String(".handoff.server2.v1.PayInvoiceResponse"),
		}
	}
	upload := method("Call", ruled(&handoffv1.Rule{}))
	upload.ClientStreaming = proto.Bool(true)
	download := method("Call", ruled(&handoffv1.Rule{}))
	download.ServerStreaming = proto.Bool(true)
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("guardtest.proto"), Package: proto.String("guardtest"), Syntax: proto.String("proto3"),
		Dependency: []string{"handoff/server2/v1/invoice_service.proto", "handoff/v1/rule.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{
			{Name: proto.String("Ruled"), Method: []*descriptorpb.MethodDescriptorProto{method("Call", ruled(&handoffv1.Rule{}))}},
			{Name: proto.String("Unruled"), Method: []*descriptorpb.MethodDescriptorProto{method("Call", nil)}},
			{Name: proto.String("Upload"), Method: []*descriptorpb.MethodDescriptorProto{upload}},
			{Name: proto.String("Download"), Method: []*descriptorpb.MethodDescriptorProto{download}},
			{Name: proto.String("Sealed"), Method: []*descriptorpb.MethodDescriptorProto{method("Call", ruled(&handoffv1.Rule{Sealed: true}))}},
			{Name: proto.String("BadPath"), Method: []*descriptorpb.MethodDescriptorProto{method("Call", ruled(&handoffv1.Rule{Free: []string{"note"}}))}},
		},
	}
	built, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err == nil {
		err = protoregistry.GlobalFiles.RegisterFile(built)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckRefuses(t *testing.T) {
	rules(t)
	for _, c := range []struct {
		name     string
		register []string // services of rules, each with its one unary method Call; with a *, client-streaming
		exempt   []string
		want     []string // parts of the error; none: the check succeeds
	}{
		{"control: a rule", []string{"guardtest.Ruled"}, nil, nil},
		{"control: an exempt method", []string{"guardtest.Unruled"}, []string{"/guardtest.Unruled/Call"}, nil},
		{"control: an exempt service", []string{"guardtest.Unruled"}, []string{"/guardtest.Unruled/"}, nil},
		{"control: an exempt service without a .proto", []string{"nowhere.Service"}, []string{"/nowhere.Service/"}, nil},
		{"G12 no rule", []string{"guardtest.Unruled"}, nil, []string{"/guardtest.Unruled/Call"}},
		{"G12 no .proto", []string{"nowhere.Service"}, nil, []string{"/nowhere.Service/Call"}},
		{
			"G12 each is named",
			[]string{"guardtest.Unruled", "nowhere.Service"},
			[]string{"/guardtest.Unruled/Other"},
			[]string{"/guardtest.Unruled/Call", "/guardtest.Unruled/Other", "/nowhere.Service/Call"},
		},
		{"an exempt method that is not there", []string{"guardtest.Ruled"}, []string{"/guardtest.Ruled/Other"}, []string{"Exempt", "/guardtest.Ruled/Other"}},
		{"an exempt service that is not there", []string{"guardtest.Ruled"}, []string{"/guardtest.Unruled/"}, []string{"Exempt", "/guardtest.Unruled/"}},
		{"an exempt method with a rule", []string{"guardtest.Ruled"}, []string{"/guardtest.Ruled/Call"}, []string{"Exempt", "/guardtest.Ruled/Call"}},
		{"an exempt service with a rule", []string{"guardtest.Ruled"}, []string{"/guardtest.Ruled/"}, []string{"Exempt", "/guardtest.Ruled/Call"}},
		{"client-streaming", []string{"*guardtest.Upload"}, nil, []string{"/guardtest.Upload/Call"}},
		{"client-streaming and exempt", []string{"*guardtest.Upload"}, []string{"/guardtest.Upload/"}, []string{"/guardtest.Upload/Call"}},
		{"registered as client-streaming", []string{"*guardtest.Ruled"}, nil, []string{"/guardtest.Ruled/Call"}},
		{"a sealed method, and no key that opens", []string{"guardtest.Sealed"}, nil, []string{"/guardtest.Sealed/Call", "VerifierConfig.Unseal"}},
		{"a free path that is not there", []string{"guardtest.BadPath"}, nil, []string{"/guardtest.BadPath/Call", "note"}},
		{"a free path that is not there, exempt", []string{"guardtest.BadPath"}, []string{"/guardtest.BadPath/"}, []string{"/guardtest.BadPath/Call"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, handoffgrpc.Config{Exempt: append([]string{}, c.exempt...)})
			s := grpc.NewServer()
			for _, service := range c.register {
				k.guard.On(s).RegisterService(describe(service), nil)
			}
			err := k.guard.Check(s)
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("Check: %v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%q does not name %s on one line", err, part)
				}
			}
			if err == nil {
				return
			}
			method := "/" + strings.TrimPrefix(c.register[0], "*") + "/Call"
			_, err = k.guard.Unary(t.Context(), payment(), method,
				func(context.Context, any) (any, error) { return nil, nil })
			if !refusedAsUnplanned(err) {
				t.Errorf("a call after the failed check: %v", err)
			}
		})
	}
}

// A rule for a .proto that is not one's own: with Config.Rules the method needs no
// option, and cannot be exempt.
func TestRulesOfAnOverlay(t *testing.T) {
	rules(t)
	const method = "/guardtest.Unruled/Call"
	set, err := rule.Linked().Overlay([]byte(`{"rules": {"` + method + `": {"free": ["memo"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, exempt := range [][]string{{}, {"/guardtest.Unruled/"}} {
		k := newKit(t, handoffgrpc.Config{Rules: set, Exempt: exempt})
		s := grpc.NewServer()
		k.guard.On(s).RegisterService(describe("guardtest.Unruled"), nil)
		if err := k.guard.Check(s); (err == nil) != (len(exempt) == 0) {
			t.Fatalf("exempt %q: %v", exempt, err)
		}
		ran := 0
		call := func(ctx context.Context) error {
			_, err := k.guard.Unary(ctx, payment(), method, func(context.Context, any) (any, error) { ran++; return nil, nil })
			return err
		}
		if len(exempt) > 0 {
			if err := call(t.Context()); !refusedAsUnplanned(err) {
				t.Errorf("after the failed check: %v", err)
			}
			continue
		}
		if err := call(t.Context()); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenMissing {
			t.Errorf("without a token: %v", err)
		}
		binding, err := set.Method(method)
		if err != nil {
			t.Fatal(err)
		}
		op, err := binding.Operation(payment())
		if err != nil {
			t.Fatal(err)
		}
		token := k.pay(t).WithDetails(forge.Details(op))
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token.Compact()))
		if err := call(ctx); err != nil || ran != 1 {
			t.Errorf("with one: %v, ran %d times", err, ran)
		}
	}
}

func describe(service string) *grpc.ServiceDesc {
	name, upload := strings.CutPrefix(service, "*")
	desc := &grpc.ServiceDesc{ServiceName: name}
	if upload {
		desc.Streams = []grpc.StreamDesc{{StreamName: "Call", ClientStreams: true, Handler: func(any, grpc.ServerStream) error { return nil }}}
		return desc
	}
	desc.Methods = []grpc.MethodDesc{{MethodName: "Call", Handler: func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) {
		return nil, nil
	}}}
	return desc
}

// G17: a rule that takes only bound tokens, on a server that asks clients for no
// certificate, fails Check and not each call; the error names the field.
func TestG17CheckNeedsCertificates(t *testing.T) {
	bound, err := rule.Linked().Overlay([]byte(`{"rules": {"` + server2v1.InvoiceService_PayInvoice_FullMethodName + `": {"certificate_bound": true}}}`))
	if err != nil {
		t.Fatal(err)
	}
	_, plain := tlsPair()
	asking := func(auth tls.ClientAuthType) *tls.Config {
		config := plain.Clone()
		config.ClientAuth = auth
		return config
	}
	for _, c := range []struct {
		name  string
		rules *rule.Set
		tls   *tls.Config
		good  bool
	}{
		{"forgotten", bound, nil, false},
		{"asks for none", bound, plain, false},
		{"asks", bound, asking(tls.RequestClientCert), true},
		{"demands one of a CA's", bound, asking(tls.RequireAndVerifyClientCert), true},
		{"no such rule", nil, nil, true},
	} {
		k := newKit(t, handoffgrpc.Config{Rules: c.rules, TLS: c.tls})
		err := k.guard.Check(k.server())
		var refused *handoff.ConfigError
		if named := errors.As(err, &refused) && refused.Field == "handoffgrpc.Config.TLS" && strings.Contains(refused.Problem, "/PayInvoice"); (err == nil) != c.good || named == c.good {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			continue
		}
		if _, err := k.guard.Unary(t.Context(), payment(), server2v1.InvoiceService_GetInvoice_FullMethodName,
			func(context.Context, any) (any, error) { return nil, nil }); !refusedAsUnplanned(err) {
			t.Errorf("%s: a call after the failed check: %v", c.name, err)
		}
	}
}
