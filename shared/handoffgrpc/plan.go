package handoffgrpc

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
)

// plan says what each method of the server demands. It is immutable.
type plan struct{ methods map[string]*method }

type method struct {
	name     string
	exempt   bool
	deferred bool         // its handler redeems
	binding  *rule.Method // nil if exempt
	rule     handoff.Rule
}

// method returns what a method demands, or nil if it is not planned.
func (p *plan) method(fullMethod string) *method {
	if p == nil {
		return nil
	}
	return p.methods[fullMethod]
}

// Methods returns the full names of the methods that run only with a token, sorted. There
// are none until Check has succeeded.
func (g *Guard) Methods() (names []string) {
	p := g.plan.Load()
	if p == nil {
		return nil
	}
	for name, m := range p.methods {
		if !m.exempt {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Check opens the guard, if every method that s has registered carries a rule and
// was registered with On(s), or is exempt. Call it after the last registration and
// before Serve: gRPC ends the program that registers a service on s afterwards.
//
// Its error names, on one line, each method with neither or with both, each with a
// rule that was registered around the guard, each with a rule that cannot hold (on
// a client-streaming method, with a free path that its request lacks, over a field
// that no token can name), and each entry of Config.Exempt that the server does not
// have. A grpc.UnknownServiceHandler is an error too, since no guard stands before
// it. So is a rule that takes only sealed tokens where the verifier has no key for them,
// and one that takes only tokens bound to a client certificate where Config.TLS asks for
// none; errors.As finds the *handoff.ConfigError that names the field.
//
// After an error the guard refuses every call, even after an earlier Check, and s is
// stopped: it will serve nothing, not even what was registered around the guard.
func (g *Guard) Check(s *grpc.Server) error {
	seal(s)
	var around []error
	switch has, known := unknownHandler(s); {
	case !known:
		around = append(around, errors.New("this version of grpc-go does not show whether the server has an UnknownServiceHandler"))
	case has:
		around = append(around, errors.New("the server has an UnknownServiceHandler, before which no guard stands"))
	}
	err := g.CheckServices(s.GetServiceInfo(), func(service string) bool { return g.isGuarded(s, service) }, around...)
	if err != nil {
		s.Stop()
	}
	return err
}

// CheckServices is Check for another transport than gRPC's, such as that of package
// handoffconnect, which knows its services itself. guarded reports whether the guard
// stands before a service; problems are what else is wrong.
func (g *Guard) CheckServices(services map[string]grpc.ServiceInfo, guarded func(service string) bool, problems ...error) error {
	g.plan.Store(nil)
	methods, more := g.newPlan(services, guarded)
	if problems = append(more, problems...); len(problems) > 0 {
		slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return checkError(problems)
	}
	g.plan.Store(&plan{methods})
	return nil
}

// checkError is all that Check has found, on one line.
type checkError []error

func (e checkError) Error() string {
	texts := make([]string, len(e))
	for i, problem := range e {
		texts[i] = problem.Error()
	}
	return "handoffgrpc: " + strings.Join(texts, "; ")
}

// Unwrap returns each problem.
func (e checkError) Unwrap() []error { return e }

// newPlan plans all methods of the services, and says what is wrong with them.
func (g *Guard) newPlan(services map[string]grpc.ServiceInfo, guarded func(string) bool) (methods map[string]*method, problems []error) {
	methods = map[string]*method{}
	used := map[string]bool{}
	for _, service := range slices.Sorted(maps.Keys(services)) {
		prefix := "/" + service + "/"
		used[prefix] = true
		for _, info := range services[service].Methods {
			name := prefix + info.Name
			used[name] = true
			exempt := slices.Contains(g.config.Exempt, prefix) || slices.Contains(g.config.Exempt, name)
			m, err := newMethod(g.config.Rules, name, exempt, info)
			if err == nil && !exempt && !guarded(service) {
				err = fmt.Errorf("%s is registered around the guard: its service must be registered on Guard.On(server)", name)
			}
			if err == nil && slices.Contains(g.config.Deferred, name) {
				err = m.deferRedemption(info)
			}
			if err == nil {
				err = g.canCheck(m)
			}
			if err != nil {
				problems = append(problems, err)
				continue
			}
			methods[name] = m
		}
	}
	for _, entry := range g.config.Exempt {
		if !used[entry] {
			problems = append(problems, fmt.Errorf("Config.Exempt names %s, which the server does not have", entry))
		}
	}
	for _, entry := range g.config.Deferred {
		if !used[entry] || strings.HasSuffix(entry, "/") {
			problems = append(problems, fmt.Errorf("Config.Deferred names %s, which is no method of the server", entry))
		}
	}
	return methods, problems
}

// deferRedemption leaves the redemption to the method's handler.
func (m *method) deferRedemption(info grpc.MethodInfo) error {
	switch {
	case m.exempt, m.rule.Reusable:
		return fmt.Errorf("%s is named in Config.Deferred, and no token is redeemed for it", m.name)
	case info.IsServerStream, info.IsClientStream:
		return fmt.Errorf("%s is named in Config.Deferred, and is no unary method", m.name)
	}
	m.deferred = true
	return nil
}

// canCheck returns an error if the server has not what the method's rule takes, and so
// would refuse every call of it.
func (g *Guard) canCheck(m *method) error {
	switch {
	case m.rule.Sealed && !g.config.Verifier.CanUnseal():
		return &handoff.ConfigError{Field: "handoff.VerifierConfig.Unseal", Problem: "is required: " + m.name + " takes only sealed tokens"}
	case m.rule.CertificateBound && (g.config.TLS == nil || g.config.TLS.ClientAuth == tls.NoClientCert):
		return &handoff.ConfigError{
			Field:   "handoffgrpc.Config.TLS",
			Problem: "must ask clients for a certificate (ClientAuth: tls.RequestClientCert): " + m.name + " takes only tokens that are bound to one",
		}
	}
	return nil
}

// newMethod plans one registered method.
func newMethod(rules *rule.Set, name string, exempt bool, info grpc.MethodInfo) (*method, error) {
	m := &method{name: name, exempt: exempt}
	binding, err := rules.Method(name)
	switch {
	case exempt && errors.Is(err, rule.ErrUnknownMethod):
		return m, nil // a service need not come from a .proto
	case errors.Is(err, rule.ErrUnknownMethod):
		return nil, fmt.Errorf("%s has no descriptor in this program, hence no rule, and no entry in Config.Exempt", name)
	case err != nil:
		return nil, err // names the method
	}
	demands, ruled := binding.Rule()
	switch {
	case ruled && exempt:
		return nil, fmt.Errorf("%s has a rule and is named in Config.Exempt", name)
	case !ruled && !exempt:
		return nil, fmt.Errorf("%s has neither a rule nor an entry in Config.Exempt, which would be %q or, for the whole service, %q",
			name, name, name[:strings.LastIndexByte(name, '/')+1])
	case ruled && info.IsClientStream:
		return nil, fmt.Errorf("%s has a rule and is registered as client-streaming", name)
	case ruled:
		m.binding, m.rule = binding, demands
	}
	return m, nil
}
