package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// maxSize is the longest policy that is read, in bytes.
const maxSize = 1 << 20

// Load reads the policy in a file, over the audiences' methods. It refuses a file
// that others than its owner can write. maxLifetime is the longest lifetime that
// the issuer grants. The error names the file and what is wrong with it.
func Load(path string, methods *rule.Set, maxLifetime time.Duration) (*Policy, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	p, err := parse(string(text), methods, maxLifetime)
	if errors.Is(err, strictjson.ErrSyntax) {
		err = placed(text, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, not of what stands at the path now
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return nil, fmt.Errorf("%s: others can write it (mode %04o), and so decide who may do what: chmod go-w %s", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(text) > maxSize {
		err = fmt.Errorf("longer than %d bytes", maxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// placed adds to an error of syntax where it is.
func placed(text []byte, err error) error {
	decoder := jsontext.NewDecoder(bytes.NewReader(text))
	_, found := decoder.ReadValue()
	if found == nil { // the first value is fine
		_, found = decoder.ReadToken()
	}
	offset := int64(len(text))
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](found); ok {
		offset = min(offset, syntax.ByteOffset)
	} else if found == nil {
		offset = decoder.InputOffset()
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(text[:offset], []byte("\n")), err)
}

// parser reads one policy. The document is the operator's own, so that errors
// name what stands in it.
type parser struct {
	*strictjson.Reader
	methods     *rule.Set
	maxLifetime time.Duration
}

func parse(text string, methods *rule.Set, maxLifetime time.Duration) (*Policy, error) {
	p := &Policy{methods: methods}
	err := strictjson.Read(text, func(r *strictjson.Reader) error {
		parser := parser{r, methods, maxLifetime}
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
		case "methods":
			a.methods = map[string]entry{}
			err = p.object("%q", func(method string) (err error) {
				a.methods[method], err = p.entry(method)
				return err
			})
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
	return a, nil
}

func (p parser) entry(method string) (e entry, err error) {
	if e.method, err = p.methods.Method(method); err != nil {
		return e, err
	}
	demands, ok := e.method.Rule()
	if !ok {
		return e, errors.New("the method carries no rule: no token can be issued for it")
	}
	e.maxLifetime = p.maxLifetime
	if demands.MaxLifetime > 0 {
		e.maxLifetime = min(e.maxLifetime, demands.MaxLifetime)
	}
	err = p.object("", func(name string) (err error) {
		switch name {
		case "roles":
			err = p.Array(func(int) error {
				role, err := p.String()
				if err == nil && !account.ValidName(role) {
					err = fmt.Errorf("%q is not a role: 1 to 64 characters of a-z, 0-9, '.', '_' and '-'", role)
				}
				if err == nil && slices.Contains(e.roles, role) {
					err = fmt.Errorf("%q stands there twice", role)
				}
				e.roles = append(e.roles, role)
				return err
			})
		case "max_lifetime_seconds":
			var seconds int64
			if seconds, err = p.Integer(); err != nil {
				break
			}
			if most := int64(e.maxLifetime / time.Second); seconds < 1 || seconds > most {
				err = fmt.Errorf("must be 1 to %d, what --max-lifetime and the method's rule allow", most)
				break
			}
			e.maxLifetime = time.Duration(seconds) * time.Second
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
