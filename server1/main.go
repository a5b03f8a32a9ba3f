// Command handoff-server1 is the demo SERVER1: it signs users in and issues
// handoff tokens that its policy permits.
//
//	handoff-server1 user add --database server1.db --name alice --role payer < password
//	handoff-server1 serve --database server1.db --issuer https://shop.example --key shop.key \
//	    --policy policy.json --tls-cert server1.crt --tls-key server1.key
//
// It exits with 0 after an orderly stop, 2 when a setting is wrong, before a
// port is open, and 1 when anything else fails.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/handoff-auth/handoff/shared/serving"
)

const (
	name      = "handoff-server1"
	variables = "HANDOFF_SERVER1_" // each flag has a variable with this prefix
)

type commands struct {
	Serve serveCommand `cmd:"" default:"withargs" help:"Serve until interrupted (the default)."`
	User  struct {
		Add  addCommand  `cmd:"" help:"Add a user, with a password from standard input."`
		List listCommand `cmd:"" help:"List the users."`
	} `cmd:"" help:"Manage the users. The server may be running."`
}

// console is where a command reads and writes.
type console struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run is main with everything that it depends on. It returns the exit status.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var asked bool // for help
	settings, unknown := environment(env)
	parser, err := kong.New(&commands{},
		kong.Name(name),
		kong.Description("The demo SERVER1: users sign in, and hand off single operations to other services."),
		kong.Vars{"listen": "127.0.0.1:7401"},
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { asked = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ValueFormatter(help),
		kong.Resolvers(settings),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(console{stdin, stdout, stderr}),
	)
	if err != nil {
		return serving.Exit(stderr, name, err)
	}
	command, err := parser.Parse(args)
	if asked {
		return 0
	}
	if err == nil {
		err = unknownIn(parser.Model, unknown)
	}
	if err != nil {
		return misused(stderr, err)
	}
	return serving.Exit(stderr, name, command.Run())
}

// misused reports what is wrong with the command line or the environment.
func misused(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "%s: %s (see %s --help)\n", name, strings.Join(strings.Fields(err.Error()), " "), name)
	return 2
}

// environment returns the settings that the variables make, and the variables.
func environment(env []string) (kong.Resolver, []string) {
	values := map[string]string{}
	var found []string
	for _, pair := range env {
		if variable, value, _ := strings.Cut(pair, "="); strings.HasPrefix(variable, variables) {
			values[variable] = value
			found = append(found, variable)
		}
	}
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if value, ok := values[variableOf(flag.Value)]; ok {
			return value, nil
		}
		return nil, nil
	}), found
}

// unknownIn refuses a variable that no flag of any command reads: it is a
// setting that somebody believes to have made.
func unknownIn(model *kong.Application, found []string) error {
	known := map[string]bool{}
	_ = kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok && flag.Name != "help" {
			known[variableOf(flag.Value)] = true
		}
		return next(nil)
	})
	var unknown []error
	for _, variable := range found {
		if !known[variable] {
			unknown = append(unknown, fmt.Errorf("%s: no such setting", variable))
		}
	}
	return errors.Join(unknown...)
}

func variableOf(flag *kong.Value) string {
	return variables + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
}

// help adds the default and the variable to what --help says of a flag.
func help(value *kong.Value) string {
	if value.Name == "help" {
		return value.Help
	}
	text := value.Help
	if value.HasDefault {
		text += " Default: " + value.Default + "."
	}
	return text + " $" + variableOf(value)
}
