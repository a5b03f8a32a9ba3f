package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/handoff-auth/handoff/shared/serving"
)

// A command is one thing that the program can be told to do.
type command interface {
	run(ctx context.Context, stdout, stderr io.Writer) error
}

// commandLine is all that the operator can set. Each flag also has a variable,
// HANDOFF_SERVER2_ and its name in capitals; a flag that is given wins.
type commandLine struct {
	Serve serveCommand `cmd:"" default:"withargs" help:"Serve InvoiceService until SIGINT or SIGTERM. The default command."`
	Init  initCommand  `cmd:"" help:"Make the journal that serve --replay is to keep. Once, before the first start."`
	Seed  seedCommand  `cmd:"" help:"Add the invoices of a JSON file to the database, all or none."`
}

type serveCommand struct {
	serving.Flags `embed:""`

	Audience    string        `required:"" placeholder:"URL" help:"This service's own name: the only aud that is accepted, byte for byte."`
	Issuer      string        `required:"" placeholder:"URL" help:"SERVER1's name: the only iss that is accepted, byte for byte."`
	Database    string        `required:"" placeholder:"FILE|URL" help:"Invoices and payments: a SQLite file, made where there is none, or postgres://USER@HOST/NAME, with sslmode=verify-full unless HOST is this machine. A password is best given by the variable."`
	MaxLifetime time.Duration `default:"300s" placeholder:"TIME" help:"Longest lifetime of a token that is accepted, in whole seconds up to 300s."`
	Skew        time.Duration `default:"5s" placeholder:"TIME" help:"How far ahead SERVER1's clock may be, up to 60s."`

	Keys         string         `group:"trust" placeholder:"FILE" help:"SERVER1's public keys, a JWK Set or PEM. Read again when it changes; a private key is refused. Nothing can be taken back but by changing the file."`
	TrustKey     []string       `group:"trust" placeholder:"FILE" help:"The public key that signs SERVER1's trust list; two files while it changes. Instead of --keys."`
	Trust        string         `group:"trust" placeholder:"URL" help:"Where the trust list is read: grpc://HOST:PORT or https://HOST/PATH, both over TLS 1.3, or a FILE that is replaced. Required with --trust-key."`
	TrustCA      string         `group:"trust" placeholder:"FILE" help:"Certificates that vouch for the host of --trust, in PEM. Unless set: the system's."`
	MaxStaleness *time.Duration `group:"trust" placeholder:"TIME" help:"Age at which the trust list is no longer relied on: every token is then refused, and health says so, until there is a fresh one. From 1s to 24h; 10s unless set."`

	Replay                    string         `group:"replay" default:"memory" placeholder:"PLACE" help:"memory; or the FOLDER of a journal, as \"init\" makes it, which forgets nothing when the process ends; or a Redis that replicas share, redis://HOST:PORT on this machine and rediss://… elsewhere. With memory, a start refuses tokens for as long as --skew. A password is best given by the variable."`
	RedisTimeout              *time.Duration `group:"replay" placeholder:"TIME" help:"How long the Redis may take for a redemption before the call is refused, from 10ms to 1s; 150ms unless set."`
	RedisCA                   string         `group:"replay" placeholder:"FILE" help:"Certificates that vouch for the host of rediss://, in PEM. Unless set: the system's."`
	RedisWait                 int            `group:"replay" placeholder:"N" help:"How many replicas of the Redis must have a redemption before it counts. If it has any: at least half, rounded up."`
	RedisAppendfsync          string         `group:"replay" placeholder:"WORD" help:"The Redis's appendfsync, always or everysec, where it forbids CONFIG and so does not show it."`
	RedisAcceptLastSecondLoss bool           `group:"replay" help:"Accept appendfsync everysec: a crash of the Redis's machine lets tokens of the last second be used again."`
}

type initCommand struct {
	Replay string        `required:"" placeholder:"FOLDER" help:"The journal's folder, which must not exist yet."`
	Skew   time.Duration `default:"5s" placeholder:"TIME" help:"As for serve."`
}

type seedCommand struct {
	Database string `required:"" placeholder:"FILE|URL" help:"As for serve."`
	Invoices string `arg:"" placeholder:"FILE" help:"JSON: [{\"invoice_id\": \"INV-42\", \"issuer\": \"https://…\", \"subject\": \"…\", \"currency_code\": \"EUR\", \"minor_units\": 1200}]"`
}

// parse returns the command that args and the environment choose, or nil where
// they asked for help and have got it.
func parse(args []string, stdout io.Writer) (command, error) {
	var line commandLine
	helped := false
	parser, err := kong.New(&line,
		kong.Name(program),
		kong.Description("The demo SERVER2: runs what a user of SERVER1 was handed off to run, once, with SERVER1's public key alone."),
		kong.DefaultEnvars(prefix),
		kong.Vars{"listen": "127.0.0.1:8442"},
		kong.ExplicitGroups([]kong.Group{{
			Key: "trust", Title: "Whose tokens count: --keys, or --trust-key with --trust.",
		}, {
			Key: "replay", Title: "Where redemptions are remembered.",
		}}),
		kong.ValueFormatter(describe),
		kong.Help(help),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { helped = true }))
	if err != nil {
		return nil, err
	}
	context, err := parser.Parse(args)
	if err == nil {
		err = unread(parser.Model, os.Environ())
	}
	switch {
	case helped:
		return nil, nil
	case err != nil:
		return nil, &serving.SettingError{Err: err}
	}
	switch context.Selected().Name {
	case "init":
		return &line.Init, nil
	case "seed":
		return &line.Seed, nil
	}
	return &line.Serve, nil
}

const prefix = "HANDOFF_SERVER2"

// unread refuses a variable that no flag of any command has: somebody believes to
// have set something.
func unread(model *kong.Application, env []string) error {
	known := map[string]bool{}
	err := kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, variable := range flag.Envs {
				known[variable] = true
			}
		}
		return next(nil)
	})
	for _, pair := range env {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, prefix+"_") && !known[name] {
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
	options.NoExpandSubcommands = true
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
	var notes []string
	if value.HasDefault {
		notes = append(notes, "default "+value.Default)
	}
	for _, variable := range value.Tag.Envs {
		notes = append(notes, "$"+variable)
	}
	if len(notes) == 0 {
		return value.Help
	}
	return value.Help + " (" + strings.Join(notes, ", ") + ")"
}

func wrong(setting string, err error) error { return &serving.SettingError{Setting: setting, Err: err} }

// inFlags puts an error that names a field of a package's configuration into the
// operator's words.
func inFlags(config string, err error) error {
	named, ok := strings.CutPrefix(err.Error(), config+".")
	field, problem, _ := strings.Cut(named, " ")
	setting := map[string]string{
		"Audience": "audience", "Issuer": "issuer", "Issuers": "issuer", "MaxLifetime": "max-lifetime", "Skew": "skew",
		"TrustKeys": "trust-key", "MaxStaleness": "max-staleness",
	}[strings.TrimSuffix(field, ":")]
	if !ok || setting == "" {
		return err
	}
	return wrong(setting, errors.New(problem))
}
