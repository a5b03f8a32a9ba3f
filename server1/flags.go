package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/handoff-auth/handoff/shared/serving"
)

// A command is one thing that the program can be told to do.
type command interface {
	run(ctx context.Context, std console) error
}

// commandLine is all that the operator can set. Each flag also has a variable,
// HANDOFF_SERVER1_ and its name in capitals; a flag that is given wins.
type commandLine struct {
	Serve serveCommand `cmd:"" default:"withargs" help:"Serve until SIGINT or SIGTERM. The default command."`
	User  struct {
		Add     addCommand     `cmd:"" help:"Add a user, whose password is read from standard input."`
		Disable disableCommand `cmd:"" help:"End all that a user can do: sessions, handoffs, signing in."`
		List    listCommand    `cmd:"" help:"List the users."`
	} `cmd:"" help:"Manage the users, whether or not the server is running."`
	Revoke   revokeCommand   `cmd:"" help:"Take handoffs back that this server has issued, by one of --handoff, --session and --subject, whether or not the server is running. What its key has signed elsewhere (\"handoff issue\") is taken back for certain only by tainting the key (\"keys taint\"). Refused where no server has published a trust list, as nobody would learn of it."`
	Renumber renumberCommand `cmd:"" help:"Have trust lists numbered by the time again, where a clock that was ahead had them numbered so that no audience takes the next. Stop the servers and set the clock first. What was signed by that clock can be taken for new when its time comes: where somebody may have kept it, change the trust key until then."`
	Keys     struct {
		List     listKeysCommand `cmd:"" help:"List the signing keys and their states."`
		Prepare  prepareCommand  `cmd:"" help:"Make a key and publish it. It does not sign yet."`
		Activate activateCommand `cmd:"" help:"Have a prepared key sign. Refused, with how long to wait, while an audience may not have heard of it."`
		Retire   retireCommand   `cmd:"" help:"End a key that signed before. It stays published until its last token is dead."`
		Taint    taintCommand    `cmd:"" help:"Unpublish a key at once, for good: what it has signed is refused. Where it is the one that signs, the key that was prepared first does in its place."`
	} `cmd:"" help:"Change the signing keys of a server that has a trust key, whether or not it is running."`
}

type serveCommand struct {
	serving.Flags `embed:""`

	Issuer          string        `required:"" placeholder:"URL" help:"This service's own name: the iss of every token, by which audiences trust it."`
	Key             string        `placeholder:"FILE" help:"Signing key, as \"handoff keygen\" makes it, readable by its owner alone. Required unless --key-dir is set."`
	KeyDir          string        `placeholder:"DIR" help:"Folder of signing keys that change, a file each, for its owner alone; shared by all processes of one issuer. Made where there is none, with a first key unless --key is it. Needs --trust-key, as audiences learn of keys by the trust list."`
	RotateEvery     time.Duration `default:"0s" placeholder:"TIME" help:"How often the signing key changes. 0s: when \"keys\" says so. Needs --key-dir."`
	TrustKey        string        `placeholder:"FILE" help:"Key that signs the trust list and nothing else, as \"handoff keygen\" makes it. Unless set, no trust list is published and no handoff can be taken back: RevokeHandoff and \"revoke\" refuse, and ending a session or a user leaves handoffs alive until they expire."`
	TrustLifetime   time.Duration `default:"60s" placeholder:"TIME" help:"How long a trust list lives, in whole seconds from 2s to 24h: the longest age at which any audience relies on one (its --max-staleness). A new key is published for as long before it signs."`
	TrustFile       string        `placeholder:"FILE" help:"Where the newest trust list is kept as well, replaced atomically."`
	HTTP            string        `name:"http" placeholder:"HOST:PORT" help:"Address to serve the trust list (/.well-known/handoff-trust) and the public keys (/.well-known/jwks.json) on, over HTTPS with TLS 1.3. The line \"https on ADDRESS\" on stdout tells which. Off unless set."`
	Skew            time.Duration `default:"5s" placeholder:"TIME" help:"How much the clocks of this issuer's processes, of PostgreSQL where that is the database, and of its audiences may differ, from 100ms to 60s."`
	Policy          string        `required:"" placeholder:"FILE" help:"JSON: which roles may hand off which methods to which audience. What it does not list is not allowed."`
	Descriptors     string        `placeholder:"FILE" help:"Descriptor set with the audiences' methods, as \"buf build -o FILE\" writes it. Unless set: the demo's own."`
	Database        string        `required:"" placeholder:"FILE|URL" help:"Database of users, sessions, the audit, revocations and the keys' states: a SQLite file, made where there is none, or postgres://USER:PASSWORD@HOST/NAME, which several processes of one issuer can share (off this machine with ?sslmode=verify-full; better in the variable, as others can see arguments)."`
	Lifetime        time.Duration `default:"60s" placeholder:"TIME" help:"How long a token lives unless its user asks otherwise, where policy and rule allow that."`
	MaxLifetime     time.Duration `default:"300s" placeholder:"TIME" help:"Longest lifetime of a token that a user can ask for, in whole seconds up to 300s."`
	SessionIdle     time.Duration `default:"30m" placeholder:"TIME" help:"How long a session lives without being used."`
	SessionLifetime time.Duration `default:"12h" placeholder:"TIME" help:"How long a session lives however much it is used. A user has 100 at most: one more ends the one that has not been used for the longest time, and takes its handoffs back."`
	SignInAttempts  int           `default:"10" placeholder:"N" help:"How often a minute one network (IPv4 /24, IPv6 /64) can try to sign in to one account, and ten times that to all accounts; an IPv6 /48 four times what a network can. One account can be tried 20 times as often from everywhere together. Each process counts for itself. Behind a proxy all users are one network: set it to what they need together, and limit each client in the proxy."`
}

// Help shows what a policy is.
func (serveCommand) Help() string {
	return "A policy (--policy), which lets users with the role payer have one invoice paid, by a token of 30 s at most:\n\n" +
		examplePolicy
}

const examplePolicy = `    {
      "audiences": {
        "https://billing.example": {
          "target": "dns:///billing.example:8442",
          "methods": {
            "/handoff.server2.v1.InvoiceService/PayInvoice": {"roles": ["payer"], "max_lifetime_seconds": 30}
          }
        }
      }
    }
`

type addCommand struct {
	Database string   `required:"" placeholder:"FILE|URL" help:"The server's database: a SQLite file, made where there is none, or postgres://…"`
	Name     string   `required:"" placeholder:"NAME" help:"What the user signs in with: 1 to 64 characters of a-z, 0-9, \".\", \"_\" and \"-\"."`
	Role     []string `placeholder:"ROLE" help:"A role, as the policy names it. Can be given several times."`
}

// existing is the database of the commands that need one that is there.
type existing struct {
	Database string `required:"" placeholder:"FILE|URL" help:"The server's database: a SQLite file or postgres://…"`
}

type listCommand struct {
	existing `embed:""`
}

type disableCommand struct {
	existing `embed:""`
	Name     string `arg:"" help:"The user's name."`
}

type revokeCommand struct {
	existing `embed:""`
	Handoff  string `xor:"what" placeholder:"ID" help:"One handoff, by its id (jti); --handoff=ID where it begins with a dash."`
	Session  string `xor:"what" placeholder:"ID" help:"A session, which ends, and all of its handoffs, by the id that they carry (sid)."`
	Subject  string `xor:"what" placeholder:"ID" help:"All handoffs that this server has issued to a user until now, by the user's id. The sessions stay."`
}

type renumberCommand struct {
	existing `embed:""`
}

type listKeysCommand struct {
	existing `embed:""`
}

type prepareCommand struct {
	existing `embed:""`
	KeyDir   string `required:"" placeholder:"DIR" help:"The server's folder of signing keys. Refused where it lacks the key that signs now."`
	Key      string `placeholder:"FILE" help:"The server's --key, where it has one beside the folder: it may be the one that signs."`
	Lost     string `placeholder:"KID" help:"The id of the key that signs, where its private half is lost for good: the folder need not have it. Taint that key next, which has the new one sign."`
}

type activateCommand struct {
	existing `embed:""`
	KeyDir   string `placeholder:"DIR" help:"The server's folder of signing keys, so that a key whose private half is not there is refused."`
	Kid      string `arg:"" help:"The key's id, after \"--\" where it begins with a dash."`
}

type retireCommand struct {
	existing `embed:""`
	KeyDir   string `placeholder:"DIR" help:"The server's folder of signing keys, so that the private half is removed."`
	Kid      string `arg:"" help:"The key's id, after \"--\" where it begins with a dash."`
}

type taintCommand struct {
	existing `embed:""`
	KeyDir   string `placeholder:"DIR" help:"The server's folder of signing keys, so that the private half is removed."`
	Kid      string `arg:"" help:"The key's id, after \"--\" where it begins with a dash."`
}

// parse returns the command that args and env choose, or nil where they asked
// for help and have got it.
func parse(args, env []string, stdout io.Writer) (command, error) {
	var line commandLine
	helped := false
	variables := variablesOf(env)
	parser, err := kong.New(&line,
		kong.Name(program),
		kong.Description("The demo SERVER1: users sign in, and hand off single operations, which its policy permits, to other services."),
		kong.Vars{"listen": "127.0.0.1:8441"},
		kong.Resolvers(variables),
		kong.ValueFormatter(describe),
		kong.Help(help),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { helped = true }))
	if err != nil {
		return nil, err
	}
	context, err := parser.Parse(args)
	if err == nil {
		err = variables.unread(parser.Model)
	}
	switch {
	case helped:
		return nil, nil
	case err != nil:
		return nil, &serving.SettingError{Err: err}
	}
	chosen, ok := context.Selected().Target.Addr().Interface().(command)
	if !ok {
		return nil, fmt.Errorf("%s is no command that can be run", context.Command())
	}
	return chosen, nil
}

// variables are the settings that the environment makes, by the variable's name.
type variables map[string]string

const prefix = "HANDOFF_SERVER1_"

func variablesOf(env []string) variables {
	all := variables{}
	for _, pair := range env {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, prefix) {
			all[name] = value
		}
	}
	return all
}

func variable(flag *kong.Value) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
}

// Resolve is kong's way to ask for a flag that is not given.
func (v variables) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if value, ok := v[variable(flag.Value)]; ok {
		return value, nil
	}
	return nil, nil
}

// Validate has nothing to check before a command is chosen.
func (variables) Validate(*kong.Application) error { return nil }

// unread refuses a variable that no flag of any command has: somebody believes
// to have set something.
func (v variables) unread(model *kong.Application) error {
	known := map[string]bool{}
	err := kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			known[variable(flag.Value)] = true
		}
		return next(nil)
	})
	for name := range v {
		if !known[name] {
			err = errors.Join(err, fmt.Errorf("%s: there is no such setting", name))
		}
	}
	return err
}

// help shows what was asked for, and the flags of the default command where
// none was.
func help(options kong.HelpOptions, context *kong.Context) error {
	if context.Selected() != nil {
		return kong.DefaultHelpPrinter(options, context)
	}
	if err := kong.DefaultHelpPrinter(options, context); err != nil {
		return err
	}
	serve, err := kong.Trace(context.Kong, []string{"serve"})
	if err != nil {
		return err
	}
	fmt.Fprintln(context.Stdout)
	return kong.DefaultHelpPrinter(options, serve)
}

// describe adds to a setting's help what it is unless it is set, and its
// variable.
func describe(value *kong.Value) string {
	if value.Name == "help" || value.Flag == nil {
		return value.Help
	}
	note := "$" + variable(value)
	if value.HasDefault {
		note = "default " + value.Default + ", " + note
	}
	return value.Help + " (" + note + ")"
}
