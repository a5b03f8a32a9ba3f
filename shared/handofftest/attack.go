package handofftest

import (
	"cmp"
	"context"
	"crypto/x509"
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
	"github.com/handoff-auth/handoff/shared/sealed"
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
	// once before the attack and once after, and with a visit where the method's rule
	// takes one; if the handler refuses it for its own
	// reasons, that counts as a call that the guard has let through.
	Request proto.Message
	// Metadata is where the server reads tokens: its handoffgrpc.Config.Metadata.
	// Empty: authorization.
	Metadata string
	// Seal is the public key of the server's for sealed tokens. Good tokens are sealed
	// to it, and hostile ones are tried sealed as well. Required where the method's
	// rule takes only sealed tokens. The zero Key: the server has none.
	Seal sealed.Key
	// Certificate is the client certificate of the connection. Good tokens are bound to
	// it. Required where the method's rule takes only bound tokens. Nil: it has none.
	Certificate *x509.Certificate
}

// Attack calls the method with every hostile token and header that this project
// knows, and fails the test for each that the server does not refuse for the
// right reason. Before the signature has verified, all refusals must be alike.
// It makes some 500 calls (twice as many where tokens are sealed), one after the other, and gives up on a server that
// refuses the good ones or lets everything through.
func Attack(t testing.TB, conn grpc.ClientConnInterface, target Target) {
	t.Helper()
	target.Subject = cmp.Or(target.Subject, "u-1")
	a := &attack{t: t, conn: conn, target: target}
	method, err := rule.Linked().Method(target.Method)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	demands, ok := method.Rule()
	if !ok {
		t.Fatalf("handofftest: %s has no rule: a call of it needs no token", target.Method)
	}
	a.rule = demands
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(
		protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(target.Method, "/"), "/", ".")))
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	a.method = descriptor.(protoreflect.MethodDescriptor)

	a.ready()
	a.tokens()
	a.sealed()
	a.bound()
	a.visits()
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

	response proto.Message // to the last call
	uniform  string        // the answer to the first token that was not authentic
	accepted int           // how many hostile calls were let through
}

// mostAccepted is how many calls must be let through to show that the rest would
// be, too.
const mostAccepted = 20

func (a *attack) good() forge.Token {
	return bind(a.target.Issuer.good(a.t, a.target.Audience, a.target.Subject, a.target.Method, a.target.Request), a.target.Certificate)
}

// header is what brings a token: sealed, where the server has a key for that.
func (a *attack) header(raw string) string {
	a.t.Helper()
	return a.bearer(seal(a.t, raw, a.target.Seal))
}

// bearer is what brings a token as it is.
func (a *attack) bearer(raw string) string {
	if a.target.Metadata == ownKey {
		return raw
	}
	return "Bearer " + raw
}

// ownKey is the metadata in which tokens stand that leave authorization free.
const ownKey = "handoff-token"

// ready makes a good call, and ends the test if it is refused: nothing else would
// mean anything. A server whose record of redemptions has only begun refuses what
// was issued before, for a while: it is waited for.
func (a *attack) ready() {
	a.t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := a.call(a.header(a.good().Compact()))
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
	if err := a.call(a.header(a.good().Compact())); handoffgrpc.ReasonOf(err) != 0 {
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
		a.refused(hostile.ID+" "+hostile.Name, hostile.Reason, a.bearer(raw))
		if a.target.Seal.ID() != "" && len(raw) <= handoff.KindHandoff.Profile().MaxLength {
			a.refused(hostile.ID+" "+hostile.Name+", sealed", hostile.Reason, a.header(raw))
		}
	}
	foreign := a.good()
	foreign.Key = forge.NewKey(handoff.EdDSA)
	a.refused("A08 a key that nobody lists", handoff.ReasonTokenInvalid,
		a.bearer(foreign.WithHeader("kid", forge.Quote(foreign.Key.Public.ID())).Compact()))
}

// sealed offers hostile sealed tokens, to a server that opens none as well; and where
// the rule takes only sealed ones, a good token that is not.
func (a *attack) sealed() {
	to := recipient(a.t, a.target.Seal)
	for _, hostile := range forge.SealedAttacks() {
		if raw := hostile.Forge(to, a.good().Compact()); printable(raw) {
			a.refused(hostile.ID+" sealed: "+hostile.Name, handoff.ReasonTokenInvalid, a.bearer(raw))
		}
	}
	if a.rule.Sealed {
		a.refused("a token that is not sealed", handoff.ReasonTokenNotSealed, a.bearer(a.good().Compact()))
	}
}

// bound offers tokens that are bound to another certificate than the connection's, or
// to none where the rule takes only bound ones.
func (a *attack) bound() {
	a.refused("G17 a token that is bound to another certificate", handoff.ReasonCertificateMismatch,
		a.header(bind(a.good(), &x509.Certificate{Raw: []byte("another")}).Compact()))
	if a.rule.CertificateBound {
		a.refused("G17 a token that is bound to no certificate", handoff.ReasonCertificateMismatch, a.header(a.good().WithoutClaim("cnf").Compact()))
	}
}

// visits offers hostile visits, and a good one, which the method takes if its rule
// says so. All are of a verifier that follows a trust list: of another, none is
// accepted.
func (a *attack) visits() {
	life := handoff.KindVisit.DefaultLifetime()
	if a.rule.MaxLifetime > 0 {
		life = min(life, a.rule.MaxLifetime)
	}
	good := func(method string) forge.Token {
		return bind(a.target.Issuer.visit(a.target.Audience, a.target.Subject, life, method), a.target.Certificate)
	}
	err := a.call(a.bearer(good(a.target.Method).Compact()))
	reason := handoffgrpc.ReasonOf(err)
	if reason == handoff.ReasonTrustStale {
		return // the server knows the issuer by a key file: it takes no visit at all
	}
	want := handoff.ReasonMethodMismatch
	if a.rule.Visit {
		want = 0
	}
	if reason != want {
		a.t.Errorf("J10 a good visit at a method whose rule says visit: %t: refused with %s, want %s: %v", a.rule.Visit, reason, want, err)
	}
	a.refused("J10 a visit for another method", handoff.ReasonMethodMismatch, a.bearer(good(a.target.Method+"Other").Compact()))
	for _, hostile := range forge.VisitAttacks() {
		a.refused(hostile.ID+" "+hostile.Name, hostile.Reason, a.bearer(hostile.Forge(good(a.target.Method))))
	}
}

// headers sends good tokens in bad headers.
func (a *attack) headers() {
	raw := func() string { return seal(a.t, a.good().Compact(), a.target.Seal) }
	a.refused("no token", handoff.ReasonTokenMissing)
	a.refused("G01 two tokens", handoff.ReasonTokenInvalid, a.bearer(raw()), a.bearer(raw()))
	wrong := map[string]string{
		"another scheme": "Basic " + raw(),
		"nothing":        "",
		"a scheme alone": "Bearer",
		"no token in it": "Bearer ",
		"two spaces":     "Bearer  " + raw(),
		"two tokens":     "Bearer " + raw() + ", Bearer " + raw(),
		"quotes":         `Bearer "` + raw() + `"`,
	}
	if a.target.Metadata == ownKey {
		wrong["a scheme"] = "Bearer " + raw()
	} else {
		wrong["the scheme in capitals"] = "BEARER " + raw()
		wrong["no scheme"] = raw()
	}
	for name, value := range wrong {
		a.refused("G02 metadata with "+name, handoff.ReasonTokenInvalid, value)
	}
	if a.target.Metadata == ownKey {
		a.elsewhere("G02 the token in authorization", handoff.ReasonTokenMissing, "authorization", "Bearer "+raw())
		return
	}
	a.elsewhere("G02 the token in handoff-token", handoff.ReasonTokenMissing, ownKey, raw())
	a.elsewhere("G01 a token in authorization, another in handoff-token", handoff.ReasonTokenInvalid,
		"authorization", "Bearer "+raw(), ownKey, raw())
}

// elsewhere makes a call with metadata that must be refused with the reason.
func (a *attack) elsewhere(name string, reason handoff.Reason, pairs ...string) {
	a.t.Helper()
	a.answer(name, reason, a.send(metadata.AppendToOutgoingContext(a.t.Context(), pairs...)))
}

// otherCalls presents genuine tokens for calls that differ from this one.
func (a *attack) otherCalls() {
	op, err := rule.Operation(a.target.Method, a.target.Request)
	if err != nil {
		a.t.Fatalf("handofftest: %v", err)
	}
	details := func(op handoff.Operation) string {
		return a.header(a.good().WithDetails(forge.Details(op)).Compact())
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
	if !a.rule.Actors {
		a.refused("K05 a client that acts for the user", handoff.ReasonActorDenied, a.header(a.good().WithClaim("act", `{"sub":"c-1"}`).Compact()))
	}
	other.Method, other.Bound = op.Method, append(append([]handoff.Field(nil), op.Bound...), handoff.Field{Path: "no_such_field", Value: "1"})
	a.refused("D14 a token that names a field more", handoff.ReasonFieldMismatch, details(other))
}

// again spends a token twice. A server with a handoffgrpc.Config.Outcome may give
// its first answer again.
func (a *attack) again() {
	if a.rule.Reusable {
		return
	}
	header := a.header(a.good().Compact())
	if err := a.call(header); handoffgrpc.ReasonOf(err) != 0 {
		a.t.Errorf("a good token is refused: %v", err)
	}
	first := a.response
	if err := a.call(header); err == nil && !a.method.IsStreamingServer() && proto.Equal(first, a.response) {
		return
	}
	a.refused("E01 the same token again", handoff.ReasonTokenReplayed, header)
}

// refused makes a call that must be refused with the reason.
func (a *attack) refused(name string, reason handoff.Reason, values ...string) {
	a.t.Helper()
	a.answer(name, reason, a.call(values...))
}

// answer judges how a call ended that must be refused.
func (a *attack) answer(name string, reason handoff.Reason, err error) {
	a.t.Helper()
	got := handoffgrpc.ReasonOf(err)
	if got == 0 {
		a.accepted++
		a.t.Errorf("%s: ACCEPTED, want %s: %v", name, reason, err)
		if a.accepted == mostAccepted {
			a.t.Fatalf("handofftest: the attack ends here: is the service registered on Guard.On(server)?")
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
	a.uniform = cmp.Or(a.uniform, answer)
	if answer != a.uniform {
		a.t.Errorf("%s: the answer is %q, to another token it was %q", name, answer, a.uniform)
	}
}

// call makes the call with these values where the server reads tokens, and returns
// how it ended.
func (a *attack) call(values ...string) error {
	ctx := a.t.Context()
	for _, value := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, cmp.Or(a.target.Metadata, "authorization"), value)
	}
	return a.send(ctx)
}

// send makes the call with the metadata of the context.
func (a *attack) send(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	response := dynamicpb.NewMessage(a.method.Output())
	a.response = response
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
