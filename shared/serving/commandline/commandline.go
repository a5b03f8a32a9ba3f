// Package commandline reads what an operator sets, the same way in every program of
// this module: flags, variables where a flag is not given, --help and --version.
//
//	chosen, err := commandline.Program{Name: "handoff-server1", Prefix: "HANDOFF_SERVER1_"}.Parse(&line, args, env, stdout)
//
// # Variables
//
// Each flag has a variable: the prefix and its name in capitals. A flag that is given
// wins; one that is given with nothing in it is refused. An empty variable is one that is
// not set. A variable with the prefix that no flag has is refused, because somebody
// believes to have set something; except those that Kubernetes gives every pod for a
// Service of such a name (SERVICE_HOST, SERVICE_PORT, PORT and their kin, with the values
// that it gives them): they are nobody's settings. Blame names the variables that an error is about: pass it those of
// Parse, and what is found to be wrong later.
//
// # Ids
//
// An id in base64url can begin with a dash. An argument that has the length of one and
// is no flag is taken as an id, as it is.
package commandline

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Program is one that has a command line.
type Program struct {
	Name, Description string
	// Prefix begins its variables: "HANDOFF_SERVER1_". Empty: it has none.
	Prefix string
	// Vars are for the tags of the command line: ${listen}.
	Vars kong.Vars
	// Groups have titles in the help.
	Groups []kong.Group
}

// Parse returns the node of line that args and env choose, or nil where they asked
// for help or the version: stdout has it, or the error of writing it.
func (p Program) Parse(line any, args, env []string, stdout *Output) (*kong.Node, error) {
	answered := false
	variables := p.variables(env)
	parser, err := kong.New(line,
		kong.Name(p.Name), kong.Description(p.Description), p.Vars, kong.Vars{"version": p.Name + " " + Version()},
		kong.Resolvers(variables), kong.ExplicitGroups(p.Groups), kong.ValueFormatter(p.describe), kong.Help(help),
		kong.Writers(stdout, stdout), kong.Exit(func(int) { answered = true }))
	if err != nil {
		return nil, err
	}
	chosen, err := parser.Parse(Ids(parser.Model, args))
	if err == nil {
		err = errors.Join(NoneEmpty(chosen), variables.unread(parser.Model))
	} else {
		err = Discreet(err)
	}
	switch {
	case answered || stdout.Err() != nil: // kong writes nothing else
		return nil, nil
	case err != nil:
		return nil, err
	}
	return chosen.Selected(), nil
}

var (
	// misspelled is a mistake in the name of a command, and in nothing that could be a
	// token, whose header begins with eyJ, or a part of a database's URL.
	misspelled  = regexp.MustCompile(`^unexpected argument ([a-z]+)(?:, did you mean (.*)\?)?$`)
	unknownFlag = regexp.MustCompile(`^unknown flag --?[a-z-]+(?:, did you mean .*\?)?$`)
)

// Discreet words kong's error without what it did not expect, unless that is a plain
// word in the place of a command or a flag: it can be a token, or the rest of a password
// with a space. Other errors it returns as they are.
func Discreet(err error) error {
	mistake, ok := errors.AsType[*kong.ParseError](err)
	if !ok {
		return err
	}
	program := mistake.Context.Model
	switch text := err.Error(); {
	case strings.HasPrefix(text, "unknown flag ") && !unknownFlag.MatchString(text):
		return fmt.Errorf("unknown flag: see %s --help", program.Name)
	case strings.HasPrefix(text, "unexpected flag argument "):
		return errors.New("unexpected value of a flag that takes none")
	case !strings.HasPrefix(text, "unexpected argument "):
		return err
	}
	if command := mistake.Context.Selected(); command != nil && command.Leaf() &&
		(command != program.DefaultCmd || slices.Contains(mistake.Context.Args, command.Name)) {
		return fmt.Errorf("%s: unexpected argument", command.Path())
	}
	switch found := misspelled.FindStringSubmatch(err.Error()); {
	case found == nil:
		return fmt.Errorf("unexpected argument: not the name of a command: see %s --help", program.Name)
	case found[2] != "":
		return fmt.Errorf("there is no command %s; did you mean %s? (%s --help lists all)", found[1], found[2], program.Name)
	default:
		return fmt.Errorf("there is no command %s: see %s --help", found[1], program.Name)
	}
}

// NoneEmpty refuses a flag that is given with nothing in it, which reads as one that is not
// given.
func NoneEmpty(chosen *kong.Context) error {
	for _, step := range chosen.Path {
		if flag := step.Flag; flag != nil && !step.Resolved && flag.Target.Kind() == reflect.String && flag.Target.Len() == 0 {
			return fmt.Errorf("--%s is given without a value", flag.Name)
		}
	}
	return nil
}

// variables are the settings that the environment makes.
type variables struct {
	prefix string
	values map[string]string // by the variable's name
}

func (p Program) variables(env []string) variables {
	v := variables{p.Prefix, map[string]string{}}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case p.Prefix == "" || !strings.HasPrefix(name, p.Prefix):
		case value == "":
			delete(v.values, name)
		default:
			v.values[name] = value
		}
	}
	return v
}

// own reports whether a flag is the command line's own: no variable sets it.
func own(name string) bool { return name == "help" || name == "version" }

func variable(prefix, flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Resolve is kong's way to ask for a flag that is not given.
func (v variables) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if value, ok := v.values[variable(v.prefix, flag.Name)]; ok && !own(flag.Name) {
		return value, nil
	}
	return nil, nil
}

// Validate has nothing to check before a command is chosen.
func (variables) Validate(*kong.Application) error { return nil }

// mention is a setting that an error names.
var mention = regexp.MustCompile(`(?:^|[\s("])--([a-z][a-z0-9-]*)`)

// Blame returns err with the variable of each setting that its text names, where args
// do not give that setting: whoever gave other flags has not seen it. What kong
// suggests in the place of a flag is nobody's setting.
func (p Program) Blame(err error, args, env []string) error {
	if err == nil {
		return nil
	}
	set := p.variables(env).values
	text, _, _ := strings.Cut(err.Error(), ", did you mean")
	var of []string
	for _, at := range mention.FindAllStringSubmatchIndex(text, -1) {
		name := text[at[2]:at[3]]
		from := variable(p.Prefix, name)
		if _, ok := set[from]; !ok || own(name) || given(args, "--"+name) {
			continue
		}
		delete(set, from) // it is named once
		if at[0] == 0 {
			of = append(of, "from $"+from)
		} else {
			of = append(of, "--"+name+" from $"+from)
		}
	}
	if of == nil {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(of, ", "))
}

func given(args []string, flag string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return arg == flag || strings.HasPrefix(arg, flag+"=") })
}

// unread refuses a variable that no flag of any command has.
func (v variables) unread(model *kong.Application) error {
	known := map[string]bool{}
	for name := range flagsOf(model) {
		known[variable(v.prefix, name)] = !own(name)
	}
	var err error
	for name, value := range v.values {
		if !known[name] && !isServiceLink(strings.TrimPrefix(name, v.prefix), value) {
			err = errors.Join(err, fmt.Errorf("%s: there is no such setting", name))
		}
	}
	return err
}

// flagsOf returns the flags of all commands, by name, and whether each is a switch,
// which takes no value.
func flagsOf(model *kong.Application) map[string]bool {
	all := map[string]bool{}
	_ = kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			all[flag.Name] = flag.IsBool()
		}
		return next(nil)
	})
	return all
}

var links = []struct{ name, value *regexp.Regexp }{
	{regexp.MustCompile(`^(\w+_)?SERVICE_HOST$`), regexp.MustCompile(`^[0-9a-f.:]+$`)},
	{regexp.MustCompile(`^(\w+_)?SERVICE_PORT(_\w+)?$`), regexp.MustCompile(`^[0-9]+$`)},
	{regexp.MustCompile(`^(\w+_)?PORT(_[0-9]+_(TCP|UDP|SCTP))?$`), regexp.MustCompile(`^(tcp|udp|sctp)://`)},
	{regexp.MustCompile(`^(\w+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_PROTO$`), regexp.MustCompile(`^(tcp|udp|sctp)$`)},
	{regexp.MustCompile(`^(\w+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_PORT$`), regexp.MustCompile(`^[0-9]+$`)},
	{regexp.MustCompile(`^(\w+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_ADDR$`), regexp.MustCompile(`^[0-9a-f.:]+$`)},
}

// isServiceLink reports whether a variable, without the prefix, is one of those that
// Kubernetes makes for a Service (kubelet, envvars.FromServices).
func isServiceLink(name, value string) bool {
	for _, link := range links {
		if link.name.MatchString(name) && link.value.MatchString(value) {
			return true
		}
	}
	return false
}

var id = regexp.MustCompile(`^-[A-Za-z0-9_-]+$`)

// Ids returns args with each id that begins with a dash (22 or 43 characters of
// base64url) where kong does not take it for a flag: behind its own flag and "=", or
// at the end, behind "--".
func Ids(model *kong.Application, args []string) []string {
	known := flagsOf(model)
	var before, behind []string
	for i, arg := range args {
		if arg == "--" {
			return slices.Concat(before, args[i:], behind)
		}
		_, isFlag := known[strings.TrimPrefix(arg, "--")]
		if isFlag || !id.MatchString(arg) || len(arg) != 22 && len(arg) != 43 {
			before = append(before, arg)
			continue
		}
		if last := len(before) - 1; last >= 0 && strings.HasPrefix(before[last], "--") {
			if isSwitch, isFlag := known[strings.TrimPrefix(before[last], "--")]; isFlag && !isSwitch {
				before[last] += "=" + arg
				continue
			}
		}
		behind = append(behind, arg)
	}
	if behind == nil {
		return before
	}
	return slices.Concat(before, []string{"--"}, behind)
}
