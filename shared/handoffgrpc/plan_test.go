package handoffgrpc_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

func refusedAsUnplanned(err error) bool {
	want := handoffgrpc.StatusOf(&handoff.Refusal{Reason: handoff.ReasonRuleMissing})
	return proto.Equal(status.Convert(err).Proto(), want.Proto())
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
	_, err := k.guard.Unary(t.Context(), payment(), &grpc.UnaryServerInfo{FullMethod: "/handoff.server2.v1.InvoiceService/Refund"},
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
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("guardtest.proto"), Package: proto.String("guardtest"), Syntax: proto.String("proto3"),
		Dependency: []string{"handoff/server2/v1/invoice_service.proto", "handoff/v1/rule.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{
			{Name: proto.String("Ruled"), Method: []*descriptorpb.MethodDescriptorProto{method("Call", ruled(&handoffv1.Rule{}))}},
			{Name: proto.String("Unruled"), Method: []*descriptorpb.MethodDescriptorProto{method("Call", nil)}},
			{Name: proto.String("Upload"), Method: []*descriptorpb.MethodDescriptorProto{upload}},
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
		{"a free path that is not there", []string{"guardtest.BadPath"}, nil, []string{"/guardtest.BadPath/Call", "note"}},
		{"a free path that is not there, exempt", []string{"guardtest.BadPath"}, []string{"/guardtest.BadPath/"}, []string{"/guardtest.BadPath/Call"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, handoffgrpc.Config{Exempt: append([]string{}, c.exempt...)})
			s := grpc.NewServer()
			for _, service := range c.register {
				s.RegisterService(describe(service), nil)
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
			_, err = k.guard.Unary(t.Context(), payment(), &grpc.UnaryServerInfo{FullMethod: method},
				func(context.Context, any) (any, error) { return nil, nil })
			if !refusedAsUnplanned(err) {
				t.Errorf("a call after the failed check: %v", err)
			}
		})
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
