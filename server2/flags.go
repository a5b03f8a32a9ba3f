package main

import (
	"context"
	"io"
	"os"
	"slices"
	"time"

	"github.com/alecthomas/kong"

	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/commandline"
	"github.com/handoff-auth/handoff/shared/serving/postgres"
)

// A command is one thing that the program can be told to do.
type command interface {
	run(ctx context.Context, stdout, stderr io.Writer) error
}

// commandLine is all that the operator can set. Each flag also has a variable,
// HANDOFF_SERVER2_ and its name in capitals; a flag that is given wins.
type commandLine struct {
	Version kong.VersionFlag `help:"Show what this program was built from."`

	Serve serveCommand `cmd:"" default:"withargs" help:"Serve InvoiceService until SIGINT or SIGTERM. The default command."`
	Probe probeCommand `cmd:"" help:"Ask a server on this machine whether it serves: exit status 0 if so. For containers, which have nothing else to ask with."`
	Init  initCommand  `cmd:"" help:"Make the journal that serve --replay is to keep. Once, before the first start."`
	Seed  seedCommand  `cmd:"" help:"Add the invoices of a JSON file to the database, all or none."`
}

type serveCommand struct {
	serving.Flags
	postgres.Pool

	Audience    string        `required:"" placeholder:"URL" help:"This service's own name: the only aud that is accepted, byte for byte."`
	Issuer      string        `required:"" placeholder:"URL" help:"SERVER1's name: the only iss that is accepted, byte for byte."`
	Database    string        `required:"" placeholder:"FILE|URL" help:"Invoices and payments: a SQLite file, made where there is none, or postgres://USER@HOST/NAME, with sslmode=verify-full unless HOST is this machine. A password is best given by the variable."`
	MaxLifetime time.Duration `default:"300s" placeholder:"TIME" help:"Longest lifetime of a token that is accepted, in whole seconds up to 300s."`
	Skew        time.Duration `default:"5s" placeholder:"TIME" help:"How far ahead SERVER1's clock may be, up to 60s."`
	UnsealKey   []string      `placeholder:"FILE" help:"Key that opens sealed tokens, as handoff keygen --use enc makes it; two files while it changes. Required if a method takes only sealed tokens; sealed ones are refused without it."`

	Rules string `placeholder:"FILE" help:"JSON with stricter rules for the methods, such as sealed or certificate_bound, to which SERVER1's --rules must be the same text. Unless set: the rules that the methods carry."`

	HTTP         string `group:"pages" placeholder:"HOST:PORT" help:"Address to serve pages on, over HTTPS, for people whom SERVER1 redirects here in a browser: they see what SERVER1 has signed, and confirm it. The line \"https on ADDRESS\" on stdout tells the port. Off unless set."`
	IssuerOrigin string `group:"pages" placeholder:"URL" help:"Web origin of SERVER1's pages, byte for byte as browsers send it: https://shop.example, with a port only if it is not 443. Required with --http."`
	IssuerVisit  string `group:"pages" placeholder:"URL" help:"Where a person gets another visit from SERVER1, such as https://shop.example/visit, and so has the application at /app/ under --http, which they open from there. Off unless set. Needs --trust-key, as only a trust list can end a visit."`
	IssuerReturn string `group:"pages" placeholder:"URL" help:"How the address begins that leads back to SERVER1, such as https://shop.example/orders/; the handoff's id is put behind it. Required with --http."`

	Keys         string         `group:"trust" placeholder:"FILE" help:"SERVER1's public keys, a JWK Set or PEM. Read again when it changes; a private key is refused. Nothing can be taken back but by changing the file."`
	TrustKey     []string       `group:"trust" placeholder:"FILE" help:"The public key that signs SERVER1's trust list; two files while it changes. Instead of --keys."`
	Trust        []string       `group:"trust" placeholder:"URL" help:"Where the trust list is read: grpc://HOST:PORT or https://HOST/PATH, both over TLS 1.3, or a FILE that is replaced. Several: the newest list wins. Required with --trust-key."`
	TrustState   string         `group:"trust" placeholder:"FILE" help:"Where the number of the newest trust list is kept, so that no older one is believed after a restart. Unless set: with the journal, in the Redis or in the PostgreSQL; with --replay memory nowhere."`
	TrustCA      string         `group:"trust" placeholder:"FILE" help:"Certificates that vouch for the hosts of --trust, in PEM. Unless set: the system's."`
	MaxStaleness *time.Duration `group:"trust" placeholder:"TIME" help:"Age at which the trust list is no longer relied on: every token is then refused, and health says so, until there is a fresh one. From 1s to 24h; 10s unless set."`

	Replay                    string         `group:"replay" default:"memory" placeholder:"PLACE" help:"memory; or the FOLDER of a journal, as \"init\" makes it, which forgets nothing when the process ends; or a Redis that replicas share, redis://HOST:PORT on this machine and rediss://… elsewhere; or their PostgreSQL, postgres://…, with a table as \"init\" makes it and as many connections again as --database-connections. With memory, a start refuses tokens for as long as --skew. A password is best given by the variable."`
	RedisTimeout              *time.Duration `group:"replay" placeholder:"TIME" help:"How long the Redis may take for a redemption before the call is refused, from 10ms to 5s; 150ms unless set."`
	RedisCA                   string         `group:"replay" placeholder:"FILE" help:"Certificates that vouch for the host of rediss://, in PEM. Unless set: the system's."`
	RedisWait                 int            `group:"replay" placeholder:"N" help:"How many replicas of the Redis must have a redemption before it counts. If it has any: at least half, rounded up."`
	RedisAppendfsync          string         `group:"replay" placeholder:"WORD" help:"The Redis's appendfsync, always or everysec, where it forbids CONFIG and so does not show it."`
	RedisAcceptLastSecondLoss bool           `group:"replay" help:"Accept appendfsync everysec: a crash of the Redis's machine lets tokens of the last second be used again."`
}

type initCommand struct {
	Replay    string        `required:"" placeholder:"PLACE" help:"The journal's folder, which must not exist yet; or postgres://…, whose table is made unless it is there."`
	Skew      time.Duration `default:"5s" placeholder:"TIME" help:"As for serve. Of use to a journal only."`
	IfMissing bool          `help:"Do nothing where there is such a journal, or nothing to make, as a unit file wants before each start. A journal that was lost is then made again, and tokens from before are refused."`

	skewGiven bool // as a flag: the variable is serve's as well
}

// AfterApply is called by kong.
func (c *initCommand) AfterApply(line *kong.Context) error {
	c.skewGiven = slices.ContainsFunc(line.Path, func(p *kong.Path) bool {
		return p.Flag != nil && p.Flag.Name == "skew" && !p.Resolved
	})
	return nil
}

type seedCommand struct {
	Database string `required:"" placeholder:"FILE|URL" help:"As for serve."`
	Invoices string `arg:"" placeholder:"FILE" help:"JSON: [{\"invoice_id\": \"INV-42\", \"issuer\": \"https://…\", \"subject\": \"…\", \"currency_code\": \"EUR\", \"minor_units\": 1200}]"`
}

type probeCommand struct {
	serving.Probe
}

func (c *probeCommand) run(ctx context.Context, _, _ io.Writer) error { return c.Ask(ctx) }

// commands is the program as its command line is.
func commands() commandline.Program {
	return commandline.Program{
		Name:        program,
		Description: "The demo SERVER2: runs what a user of SERVER1 was handed off to run, once, with SERVER1's public key alone.",
		Prefix:      prefix + "_",
		Vars:        kong.Vars{"listen": "127.0.0.1:8442"},
		Groups: []kong.Group{{
			Key: "pages", Title: "Pages for people who come from SERVER1 in a browser.",
		}, {
			Key: "trust", Title: "Whose tokens count: --keys, or --trust-key with --trust.",
		}, {
			Key: "replay", Title: "Where redemptions are remembered.",
		}},
	}
}

// parse returns the command that args and the environment choose, or nil where
// they asked for help or the version.
func parse(args []string, stdout *commandline.Output) (command, error) {
	chosen, err := commands().Parse(new(commandLine), args, os.Environ(), stdout)
	switch {
	case err != nil:
		return nil, &serving.SettingError{Err: err}
	case chosen == nil:
		return nil, nil
	}
	return chosen.Target.Addr().Interface().(command), nil
}

const prefix = "HANDOFF_SERVER2"

func wrong(setting string, err error) error { return &serving.SettingError{Setting: setting, Err: err} }

// fields are the flags that fields of the packages' configurations come from.
var fields = map[string]string{
	"handoffweb.Origin.Origin": "issuer-origin", "handoffweb.Origin.Return": "issuer-return", "handoffweb.Origin.Visit": "issuer-visit",
	"handoff.VerifierConfig.Audience":    "audience",
	"handoff.VerifierConfig.Issuers":     "issuer",
	"handoff.VerifierConfig.MaxLifetime": "max-lifetime",
	"handoff.VerifierConfig.Skew":        "skew",
	"handoff.VerifierConfig.Unseal":      "unseal-key",
	"handoffgrpc.Config.TLS":             "client-certificates",
	"trust.FollowerConfig.Issuer":        "issuer",
	"trust.FollowerConfig.TrustKeys":     "trust-key",
	"trust.FollowerConfig.MaxStaleness":  "max-staleness",
	"trust.FollowerConfig.Skew":          "skew",
}
