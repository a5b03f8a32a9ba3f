package handoffgrpc

import (
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
	name    string
	exempt  bool
	binding *rule.Method // nil if exempt
	rule    handoff.Rule
}

// method returns what a method demands, or nil if it is not planned.
func (p *plan) method(fullMethod string) *method {
	if p == nil {
		return nil
	}
	return p.methods[fullMethod]
}

// Check opens the guard, if every method that s has registered carries a rule or
// is exempt. Call it after the last registration and before Serve.
//
// Its error names, on one line, each method with neither or with both, each with
// a rule that cannot hold (on a client-streaming method, with a free path that
// its request lacks, over a field that no token can name), and each entry of
// Config.Exempt that the server does not have. The guard then refuses every
// call, whatever an earlier Check said.
func (g *Guard) Check(s *grpc.Server) error {
	g.plan.Store(nil)
	var (
		rules    = rule.Linked()
		services = s.GetServiceInfo()
		methods  = map[string]*method{}
		used     = map[string]bool{}
		problems []string
	)
	for _, service := range slices.Sorted(maps.Keys(services)) {
		prefix := "/" + service + "/"
		used[prefix] = true
		for _, info := range services[service].Methods {
			name := prefix + info.Name
			used[name] = true
			exempt := slices.Contains(g.exempt, prefix) || slices.Contains(g.exempt, name)
			m, err := newMethod(rules, name, exempt, info)
			if err != nil {
				problems = append(problems, err.Error())
				continue
			}
			methods[name] = m
		}
	}
	for _, entry := range g.exempt {
		if !used[entry] {
			problems = append(problems, fmt.Sprintf("Config.Exempt names %s, which the server does not have", entry))
		}
	}
	if len(problems) > 0 {
		slices.Sort(problems)
		return fmt.Errorf("handoffgrpc: %s", strings.Join(problems, "; "))
	}
	g.plan.Store(&plan{methods})
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
