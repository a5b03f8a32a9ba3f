package handoffgrpc_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// G01, G02: a guard reads tokens from one key of the metadata, and says which. The
// other is another's: what stands there is no token.
func TestG01G02Metadata(t *testing.T) {
	for _, c := range []struct {
		name, reads string
		send        func(token string) []string
		want        handoff.Reason
	}{
		{"its own key", "handoff-token", func(s string) []string { return []string{"handoff-token", s} }, 0},
		{
			"its own key, beside the service's own authorization", "handoff-token",
			func(s string) []string { return []string{"authorization", "Basic dTpw", "handoff-token", s} },
			0,
		},
		{
			"its own key, with a scheme", "handoff-token",
			func(s string) []string { return []string{"handoff-token", "Bearer " + s} },
			handoff.ReasonTokenInvalid,
		},
		{
			"its own key, twice", "handoff-token",
			func(s string) []string { return []string{"handoff-token", s, "handoff-token", s} },
			handoff.ReasonTokenInvalid,
		},
		{
			"its own key, and in binary", "handoff-token",
			func(s string) []string { return []string{"handoff-token", s, "handoff-token-bin", s} },
			handoff.ReasonTokenInvalid,
		},
		{
			"authorization, where its own key is read", "handoff-token",
			func(s string) []string { return []string{"authorization", "Bearer " + s} },
			handoff.ReasonTokenMissing,
		},
		{
			"its own key, where authorization is read", "",
			func(s string) []string { return []string{"handoff-token", s} },
			handoff.ReasonTokenMissing,
		},
		{
			"both, where authorization is read", "authorization",
			func(s string) []string { return []string{"authorization", "Bearer " + s, "handoff-token", s} },
			handoff.ReasonTokenInvalid,
		},
		{"authorization", "authorization", func(s string) []string { return []string{"authorization", "Bearer " + s} }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, handoffgrpc.Config{Metadata: c.reads})
			client := server2v1.NewInvoiceServiceClient(k.serve(t))
			_, err := client.PayInvoice(raw(t, c.send(k.pay(t).Compact())...), payment())
			if handoffgrpc.ReasonOf(err) != c.want || (err == nil) != (c.want == 0) {
				t.Fatalf("%v, want %s", err, c.want)
			}
			key := c.reads
			if key == "" {
				key = "authorization"
			}
			if text := status.Convert(err).Message(); err != nil && !strings.Contains(text, " in "+key) {
				t.Errorf("%q does not say that %s is read", text, key)
			}
		})
	}
}

// The client's credentials send a token under the one key, and refuse what Token
// refuses.
func TestHandoffToken(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{Metadata: "handoff-token"})
	var seen metadata.MD
	conn := k.serve(t, grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		seen, _ = metadata.FromIncomingContext(ctx)
		return next(ctx, req)
	}))
	token := k.pay(t).Compact()
	if _, err := server2v1.NewInvoiceServiceClient(conn).PayInvoice(t.Context(), payment(), handoffgrpc.HandoffToken(token)); err != nil {
		t.Fatal(err)
	}
	if got := seen["handoff-token"]; len(got) != 1 || got[0] != token || seen["authorization"] != nil {
		t.Errorf("sent %d values of handoff-token, and in authorization %d", len(got), len(seen["authorization"]))
	}
	sent := handoffgrpc.HandoffToken("not a token").(grpc.PerRPCCredsCallOption).Creds
	private := credentials.NewContextWithRequestInfo(t.Context(), credentials.RequestInfo{
		AuthInfo: level{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}},
	})
	if md, err := sent.GetRequestMetadata(private); err == nil || md != nil || !sent.RequireTransportSecurity() {
		t.Errorf("%v, %v", md, err)
	}
}

func TestMetadataIsOneOfTwo(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	for _, key := range []string{"x-token", "Authorization", "handoff-token-bin", " "} {
		_, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: k.verifier, Metadata: key})
		if config := new(handoff.ConfigError); !errors.As(err, &config) || config.Field != "handoffgrpc.Config.Metadata" {
			t.Errorf("%q: %v", key, err)
		}
	}
}
