package handoffgrpc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

const someToken = "AAAA.BBBB.CCCC"

func perRPC(t *testing.T, raw string) credentials.PerRPCCredentials {
	t.Helper()
	return handoffgrpc.Token(raw).(grpc.PerRPCCredsCallOption).Creds
}

// level is the AuthInfo of a connection that says how secure it is.
type level struct{ credentials.CommonAuthInfo }

func (level) AuthType() string { return "test" }

// silent is the AuthInfo of a connection that does not say.
type silent struct{}

func (silent) AuthType() string { return "test" }

func TestTokenIsSentOverPrivateConnectionsAlone(t *testing.T) {
	over := func(info credentials.AuthInfo) context.Context {
		return credentials.NewContextWithRequestInfo(t.Context(), credentials.RequestInfo{AuthInfo: info})
	}
	at := func(l credentials.SecurityLevel) credentials.AuthInfo {
		return level{credentials.CommonAuthInfo{SecurityLevel: l}}
	}
	if !perRPC(t, someToken).RequireTransportSecurity() {
		t.Error("an insecure channel is not refused")
	}
	for _, c := range []struct {
		name string
		ctx  context.Context
		sent bool
	}{
		{"privacy and integrity", over(at(credentials.PrivacyAndIntegrity)), true},
		{"integrity alone", over(at(credentials.IntegrityOnly)), false},
		{"none", over(at(credentials.NoSecurity)), false},
		{"not said", over(at(credentials.InvalidSecurityLevel)), false},
		{"cannot say", over(silent{}), false},
		{"no info", over(nil), false},
		{"no connection", t.Context(), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			md, err := perRPC(t, someToken).GetRequestMetadata(c.ctx, "https://billing.example/x")
			switch {
			case c.sent && (err != nil || len(md) != 1 || md["authorization"] != "Bearer "+someToken):
				t.Errorf("%v, %v", md, err)
			case !c.sent && (status.Code(err) != codes.Unauthenticated || md != nil):
				t.Errorf("%v, %v", md, err)
			}
		})
	}
}

func TestTokenRefusesWhatIsNone(t *testing.T) {
	private := credentials.NewContextWithRequestInfo(t.Context(), credentials.RequestInfo{
		AuthInfo: level{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}},
	})
	for _, raw := range []string{
		"", " ", "a b", "Bearer a", "a\nb", "a\r\nx: y", "a\x00", "a,b", "a=", "a+b", "a/b", "ä", "\xff", strings.Repeat("a", 6145),
	} {
		if md, err := perRPC(t, raw).GetRequestMetadata(private); md != nil || status.Code(err) != codes.Unauthenticated {
			t.Errorf("%.20q: %v, %v", raw, md, err)
		} else if len(raw) > 1 && strings.Contains(err.Error(), raw) {
			t.Errorf("the error repeats %.20q", raw)
		}
	}
	if _, err := perRPC(t, strings.Repeat("a", 6144)).GetRequestMetadata(private); err != nil {
		t.Error(err)
	}
}

// G15: a call option that ends up in a log does not take its token there.
func TestTokenDoesNotPrint(t *testing.T) {
	option := handoffgrpc.Token(someToken)
	var all strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&all, verb, option)
		fmt.Fprintf(&all, verb, []any{perRPC(t, someToken)})
	}
	asJSON, err := json.Marshal(option)
	if err != nil {
		t.Fatal(err)
	}
	text := all.String() + string(asJSON)
	for _, part := range []string{"BBBB", fmt.Sprintf("%x", "BBBB")} {
		if strings.Contains(text, part) {
			t.Errorf("%s is in %s", part, text)
		}
	}
}

// Over a plaintext channel nothing reaches the server, not even the call.
func TestTokenOverInsecureChannel(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	s := k.server()
	if err := k.guard.Check(s); err != nil {
		t.Fatal(err)
	}
	client := server2v1.NewInvoiceServiceClient(dial(t, start(t, s), insecure.NewCredentials()))
	_, err := client.PayInvoice(t.Context(), payment(), handoffgrpc.Token(k.pay(t).Compact()))
	if status.Code(err) != codes.Unauthenticated || handoffgrpc.ReasonOf(err) != 0 {
		t.Errorf("got %v, want the client's own refusal", err)
	}
	if events := k.take(); len(events) != 0 {
		t.Errorf("the server saw %v", events)
	}
}
