package handofftest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/rule"
)

// Target is a protected method of the server under attack.
type Target struct {
	// Issuer is one that the server trusts: its verifier has Issuer.Keys() for
	// Issuer.Name().
	Issuer *Issuer
	// Audience is the server's own name.
	Audience string
	// Subject is the user for whom the good calls are made. Empty: "u-1".
	Subject string
	// Method is the full name of a method with a rule.
	Method string
	// Request is one that the method accepts. Good calls run the handler with it,
	// once before the attack and once after; if the handler refuses it for its own
	// reasons, that counts as a call that the guard has let through.
	Request proto.Message
}

// Attack calls the method with every hostile token and header that this project
// knows, and fails the test for each that the server does not refuse for the
// right reason. Before the signature has verified, all refusals must be alike.
// It makes some 500 calls, one after the other, and gives up on a server that
// refuses the good ones or lets everything through.
func Attack(t testing.TB, conn grpc.ClientConnInterface, target Target) {
	t.Helper()
	if target.Subject == "" {
		target.Subject = "u-1"
	}
	a := &attack{t: t, conn: conn, target: target}
	method, err := rule.Linked().Method(target.Method)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	if a.rule, _ = method.Rule(); err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(
		protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(target.Method, "/"), "/", ".")))
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	a.method = descriptor.(protoreflect.MethodDescriptor)

	a.ready()
	a.tokens()
	a.headers()
	a.otherCalls()
	a.again()
	a.letThrough("after the attack")
}

// attack is one run of Attack.
type attack struct {
	t      testing.TB
	conn   grpc.ClientConnInterface
	target Target
	rule   handoff.Rule
	method protoreflect.MethodDescriptor

	uniform  string // the answer to the first token that was not authentic
	accepted int    // how many hostile calls were let through
}

// mostAccepted is how many calls must be let through to show that the rest would
// be, too.
const mostAccepted = 20

func (a *attack) good() forge.Token {
	return a.target.Issuer.good(a.t, a.target.Audience, a.target.Subject, a.target.Method, a.target.Request)
}

// ready makes a good call, and ends the test if it is refused: nothing else would
// mean anything. A server whose record of redemptions has only begun refuses what
// was issued before, for a while: it is waited for.
func (a *attack) ready() {
	a.t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := a.call("Bearer " + a.good().Compact())
		switch reason := handoffgrpc.ReasonOf(err); {
		case reason == handoff.ReasonIssuedBeforeStart && time.Since(began) < 2*handoff.MaxSkew:
		case reason != 0:
			a.t.Fatalf("handofftest: before the attack, a good token is refused: %v\n"+
				"Does the server trust Target.Issuer (its Name with its Keys), and is Target.Audience its own name?", err)
		default:
			return
		}
	}
}

// letThrough makes a good call, as the control of everything else.
func (a *attack) letThrough(when string) {
	if err := a.call("Bearer " + a.good().Compact()); handoffgrpc.ReasonOf(err) != 0 {
		a.t.Errorf("%s, a good token is refused: %v", when, err)
	}
}

// tokens offers each hostile token that can travel in a header.
func (a *attack) tokens() {
	for _, hostile := range forge.Attacks() {
		if hostile.Algorithm != "" && hostile.Algorithm != a.target.Issuer.key.Algorithm {
			continue
		}
		raw := hostile.Forge(a.good())
		if len(raw) > 8<<10 || !printable(raw) {
			continue // gRPC itself does not send it
		}
		a.refused(hostile.ID+" "+hostile.Name, hostile.Reason, "Bearer "+raw)
	}
	foreign := a.good()
	foreign.Key = forge.NewKey(handoff.EdDSA)
	a.refused("A08 a key that nobody lists", handoff.ReasonTokenInvalid, "Bearer "+foreign.WithHeader("kid", forge.Quote(foreign.Key.Public.ID())).Compact())
}

// headers sends good tokens in bad headers.
func (a *attack) headers() {
	raw := func() string { return a.good().Compact() }
	a.refused("no token", handoff.ReasonTokenMissing)
	a.refused("G01 authorization twice", handoff.ReasonTokenInvalid, "Bearer "+raw(), "Bearer "+raw())
	for name, value := range map[string]string{
		"another scheme":         "Basic " + raw(),
		"the scheme in capitals": "BEARER " + raw(),
		"no scheme":              raw(),
		"nothing":                "",
		"the scheme alone":       "Bearer",
		"no token in it":         "Bearer ",
		"two spaces":             "Bearer  " + raw(),
		"two tokens":             "Bearer " + raw() + ", Bearer " + raw(),
		"quotes":                 `Bearer "` + raw() + `"`,
	} {
		a.refused("G02 authorization with "+name, handoff.ReasonTokenInvalid, value)
	}
}

// otherCalls presents genuine tokens for calls that differ from this one.
func (a *attack) otherCalls() {
	op, err := rule.Operation(a.target.Method, a.target.Request)
	if err != nil {
		a.t.Fatalf("handofftest: %v", err)
	}
	details := func(op handoff.Operation) string {
		return "Bearer " + a.good().WithDetails(forge.Details(op)).Compact()
	}
	other := op
	other.Method += "Other"
	a.refused("D14 a token for another method", handoff.ReasonMethodMismatch, details(other))
	for i, field := range op.Bound {
		other := op
		other.Bound = append([]handoff.Field(nil), op.Bound...)
		other.Bound[i].Value += "0"
		a.refused(fmt.Sprintf("D14 a token for another %s", field.Path), handoff.ReasonFieldMismatch, details(other))
		other.Bound = append(append([]handoff.Field(nil), op.Bound[:i]...), op.Bound[i+1:]...)
		a.refused(fmt.Sprintf("D14 a token that does not name %s", field.Path), handoff.ReasonFieldMismatch, details(other))
	}
	other.Method, other.Bound = op.Method, append(append([]handoff.Field(nil), op.Bound...), handoff.Field{Path: "no_such_field", Value: "1"})
	a.refused("D14 a token that names a field more", handoff.ReasonFieldMismatch, details(other))
}

// again spends a token twice.
func (a *attack) again() {
	if a.rule.Reusable {
		return
	}
	header := "Bearer " + a.good().Compact()
	if err := a.call(header); handoffgrpc.ReasonOf(err) != 0 {
		a.t.Errorf("a good token is refused: %v", err)
	}
	a.refused("E01 the same token again", handoff.ReasonTokenReplayed, header)
}

// refused makes a call that must be refused with the reason.
func (a *attack) refused(name string, reason handoff.Reason, authorization ...string) {
	a.t.Helper()
	err := a.call(authorization...)
	got := handoffgrpc.ReasonOf(err)
	if got == 0 {
		a.accepted++
		a.t.Errorf("%s: ACCEPTED, want %s: %v", name, reason, err)
		if a.accepted == mostAccepted {
			a.t.Fatalf("handofftest: the attack ends here: is the server guarded, for this kind of call, and is the guard last in its chain?")
		}
		return
	}
	if got != reason {
		a.t.Errorf("%s: refused with %s, want %s: %v", name, got, reason, err)
		return
	}
	if reason != handoff.ReasonTokenInvalid {
		return
	}
	answer := fmt.Sprint(status.Convert(err).Proto())
	if a.uniform == "" {
		a.uniform = answer
	}
	if answer != a.uniform {
		a.t.Errorf("%s: the answer is %q, to another token it was %q", name, answer, a.uniform)
	}
}

// call makes the call with these values of authorization, and returns how it
// ended.
func (a *attack) call(authorization ...string) error {
	ctx, cancel := context.WithTimeout(a.t.Context(), 30*time.Second)
	defer cancel()
	for _, value := range authorization {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", value)
	}
	response := dynamicpb.NewMessage(a.method.Output())
	if !a.method.IsStreamingServer() {
		return a.conn.Invoke(ctx, a.target.Method, a.target.Request, response)
	}
	stream, err := a.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, a.target.Method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(a.target.Request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(response); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
