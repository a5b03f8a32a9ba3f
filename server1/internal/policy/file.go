package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/strictjson"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// maxSize is the longest policy that is read, in bytes.
const maxSize = 1 << 20

// Load reads the policy in a file, over the audiences' methods, and follows the file
// as package vetted does: what is no policy replaces nothing. It refuses a file that
// others than its owner can write. The error names the file and what is wrong with it.
func Load(path string, methods *rule.Set, limits Limits) (*Policy, error) {
	read := func(texts [][]byte) (*document, error) {
		d, err := parse(string(texts[0]), methods, limits)
		if errors.Is(err, strictjson.ErrSyntax) {
			err = placed(texts[0], err)
		}
		if method := d.certificateBound(); err == nil && method != "" && !limits.Certificates {
			err = fmt.Errorf("handoffs of %s are bound to a client certificate: %w", method, ErrNoCertificates)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return d, nil
	}
	p := new(Policy)
	observe := func(err error) {
		if p.Observe != nil {
			p.Observe(err)
		}
	}
	var err error
	if p.file, err = vetted.Follow(read, observe, vetted.File{Path: path, Max: maxSize}); err != nil {
		return nil, err
	}
	return p, nil
}

// placed adds to an error of syntax where it is, and what it is.
func placed(text []byte, err error) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return fmt.Errorf("%w: it is empty", err)
	}
	decoder := jsontext.NewDecoder(bytes.NewReader(text))
	_, found := decoder.ReadValue()
	if found == nil { // the first value is fine
		_, found = decoder.ReadToken()
	}
	offset, why := int64(len(text)), "it ends too soon"
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](found); ok {
		offset = min(offset, syntax.ByteOffset)
		if !errors.Is(syntax, io.ErrUnexpectedEOF) {
			why = syntax.Err.Error()
		}
	} else if found == nil {
		offset, why = decoder.InputOffset(), "there is more after its end"
	}
	return fmt.Errorf("line %d: %w: %s", 1+bytes.Count(text[:offset], []byte("\n")), err, why)
}

// parser reads one policy. The document is the operator's own, so that errors
// name what stands in it.
type parser struct {
	*strictjson.Reader
	methods *rule.Set
	limits  Limits
}

func parse(text string, methods *rule.Set, limits Limits) (*document, error) {
	p := &document{methods: methods}
	err := strictjson.Read(text, func(r *strictjson.Reader) error {
		parser := parser{r, methods, limits}
		return parser.object("", func(name string) (err error) {
			switch name {
			case "audiences":
				p.audiences, err = parser.audiences()
			default:
				err = errUnknown
			}
			return err
		})
	})
	if err == nil && p.audiences == nil {
		err = errors.New("audiences is missing")
	}
	return p, err
}

var errUnknown = errors.New("unknown member")

// object reads an object whose errors are placed at its members.
func (p parser) object(format string, member func(name string) error) error {
	return p.Object(func(name string) error {
		err := member(name)
		if err == nil {
			return nil
		}
		place := name
		if format != "" {
			place = fmt.Sprintf(format, name)
		}
		return fmt.Errorf("%s: %w", place, err)
	})
}

func (p parser) audiences() (map[string]audience, error) {
	all := map[string]audience{}
	return all, p.object("%q", func(name string) (err error) {
		if !isName(name) {
			return errors.New("an audience is 1 to 255 visible ASCII characters without space, quote or backslash")
		}
		all[name], err = p.audience()
		return err
	})
}

func (p parser) audience() (a audience, err error) {
	err = p.object("", func(name string) (err error) {
		switch name {
		case "target":
			if a.target, err = p.String(); err == nil {
				err = checkTarget(a.target)
			}
		case "web":
			if a.web, err = p.String(); err == nil {
				err = handoffweb.CheckOrigin(a.web)
			}
		case "seal":
			var keys []sealed.Key
			if keys, err = sealed.ReadKeys(p.Reader); err == nil {
				a.seal = keys[0]
			}
		case "methods":
			a.methods = map[string]entry{}
			err = p.object("%q", func(method string) (err error) {
				a.methods[method], err = p.entry(method)
				return err
			})
		case "visits":
			a.visits, err = p.visits()
		default:
			err = errUnknown
		}
		return err
	})
	switch {
	case err != nil:
		return a, err
	case a.target == "":
		return a, errors.New("target is missing")
	case a.methods == nil:
		return a, errors.New("methods is missing")
	}
	return a, a.checkDemands()
}

// checkDemands refuses a method whose rule takes only sealed tokens, where there is no
// key to seal them to; and a visit to what is to be bound to a certificate.
func (a audience) checkDemands() error {
	for _, name := range a.visits.methods {
		if a.methods[name].bound {
			return fmt.Errorf("%q is certificate_bound, which no visit is", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.methods)) {
		if demands, _ := a.methods[name].method.Rule(); demands.Sealed && a.seal.ID() == "" {
			return fmt.Errorf("%q takes only sealed tokens: seal is missing, the audience's public key for them", name)
		}
	}
	return nil
}

func (p parser) entry(method string) (e entry, err error) {
	if e.method, err = p.methods.Method(method); err != nil {
		return e, err
	}
	demands, ok := e.method.Rule()
	if !ok {
		return e, errors.New("the method carries no rule: no token can be issued for it")
	}
	e.maxLifetime, e.bound = p.limits.Handoff, demands.CertificateBound
	if demands.MaxLifetime > 0 {
		e.maxLifetime = min(e.maxLifetime, demands.MaxLifetime)
	}
	err = p.object("", func(name string) (err error) {
		switch name {
		case "roles":
			e.roles, err = p.roles()
		case "max_lifetime_seconds":
			e.maxLifetime, err = p.lifetime(e.maxLifetime, "--max-lifetime and the method's rule allow")
		case "certificate_bound":
			if e.bound, err = p.Bool(); err == nil && !e.bound && demands.CertificateBound {
				err = errors.New("cannot be false: the method's rule takes only tokens that are bound to a certificate")
			}
		default:
			err = errUnknown
		}
		return err
	})
	if err == nil && len(e.roles) == 0 {
		err = errors.New("roles is missing or empty")
	}
	return e, err
}

func (p parser) roles() (roles []string, err error) {
	return roles, p.Array(func(int) error {
		role, err := p.String()
		if err == nil && !account.ValidName(role) {
			err = fmt.Errorf("%q is not a role: 1 to 64 characters of a-z, 0-9, '.', '_' and '-'", role)
		}
		if err == nil && slices.Contains(roles, role) {
			err = fmt.Errorf("%q stands there twice", role)
		}
		roles = append(roles, role)
		return err
	})
}

// lifetime reads a number of seconds, up to what is allowed.
func (p parser) lifetime(most time.Duration, by string) (time.Duration, error) {
	seconds, err := p.Integer()
	if err != nil {
		return 0, err
	}
	if most := int64(most / time.Second); seconds < 1 || seconds > most {
		return 0, fmt.Errorf("must be 1 to %d, what %s", most, by)
	}
	return time.Duration(seconds) * time.Second, nil
}

// maxVisited is how many methods a visit names at most (SPEC.md section 9).
const maxVisited = 32

func (p parser) visits() (v visits, err error) {
	if p.limits.Visit == 0 {
		return v, errors.New("this server issues no visits: --max-visit-lifetime is not set")
	}
	asked := time.Duration(0)
	v.maxLifetime = p.limits.Visit
	err = p.object("", func(name string) (err error) {
		switch name {
		case "roles":
			v.roles, err = p.roles()
		case "methods":
			err = p.Array(func(int) error {
				method, err := p.String()
				if err == nil {
					err = p.visited(&v, method)
				}
				return err
			})
		case "max_lifetime_seconds":
			asked, err = p.lifetime(p.limits.Visit, "--max-visit-lifetime allows")
		default:
			err = errUnknown
		}
		return err
	})
	switch {
	case err != nil:
		return v, err
	case len(v.roles) == 0:
		return v, errors.New("roles is missing or empty")
	case len(v.methods) == 0 || len(v.methods) > maxVisited:
		return v, fmt.Errorf("methods must be 1 to %d", maxVisited)
	case asked > v.maxLifetime:
		return v, fmt.Errorf("max_lifetime_seconds must be 1 to %d, what the methods' rules allow", v.maxLifetime/time.Second)
	case asked > 0:
		v.maxLifetime = asked
	}
	return v, nil
}

// visited adds a method that a visit may call.
func (p parser) visited(v *visits, name string) error {
	method, err := p.methods.Method(name)
	if err != nil {
		return err
	}
	demands, _ := method.Rule()
	if !demands.Visit {
		return fmt.Errorf("%q takes no visits: its rule does not say visit", name)
	}
	if demands.CertificateBound {
		return fmt.Errorf("%q takes only tokens that are bound to a certificate, which no visit is", name)
	}
	if slices.Contains(v.methods, name) {
		return fmt.Errorf("%q stands there twice", name)
	}
	if demands.MaxLifetime > 0 {
		v.maxLifetime = min(v.maxLifetime, demands.MaxLifetime)
	}
	v.methods = append(v.methods, name)
	return nil
}

// isName reports whether s can be an `aud`, as SPEC.md defines it.
func isName(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c > '~' || c == '"' || c == '\\'
	})
}

// checkTarget refuses what a client could not dial: a gRPC target is "host:port",
// or names its resolver, "dns:///host:port".
func checkTarget(target string) error {
	endpoint := target
	if scheme, rest, ok := strings.Cut(target, "://"); ok {
		if scheme != "dns" && scheme != "passthrough" {
			return errors.New(`must be "host:port" or "dns:///host:port"`)
		}
		_, endpoint, _ = strings.Cut(rest, "/")
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil || host == "" || port == "" || !isName(target) {
		return errors.New(`must be "host:port" or "dns:///host:port"`)
	}
	return nil
}
