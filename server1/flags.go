package server1

import (
	"context"
	"time"

	"github.com/alecthomas/kong"

	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/commandline"
	"github.com/handoff-auth/handoff/shared/serving/postgres"
)

// A command is one thing that the program can be told to do.
type command interface {
	run(ctx context.Context, std console) error
}

// commandLine is all that the operator can set. Each flag also has a variable,
// HANDOFF_SERVER1_ and its name in capitals; a flag that is given wins.
type commandLine struct {
	Version kong.VersionFlag `help:"Show what this program was built from."`

	Serve serveCommand `cmd:"" default:"withargs" help:"Serve until SIGINT or SIGTERM. The default command."`
	Probe probeCommand `cmd:"" help:"Ask a server on this machine whether it serves: exit status 0 if so. For containers, which have nothing else to ask with."`
	User  struct {
		Add      addCommand      `cmd:"" help:"Add a user, whose password is read from standard input."`
		Disable  disableCommand  `cmd:"" help:"End all that a user can do: sessions, handoffs, signing in."`
		Enable   enableCommand   `cmd:"" help:"Let a disabled user sign in again. What has ended stays ended."`
		Password passwordCommand `cmd:"" help:"Give a user another password, which is read from standard input. Sessions end, and handoffs are taken back."`
		Role     roleCommand     `cmd:"" help:"Give a user roles, or take some. Sessions go on with what is left; where a role is taken, handoffs are taken back."`
		List     listCommand     `cmd:"" help:"List the users."`
	} `cmd:"" help:"Manage the users, whether or not the server is running."`
	Client struct {
		Add     addClientCommand     `cmd:"" help:"Add a client, and tell its id."`
		List    listClientsCommand   `cmd:"" help:"List the clients and their keys."`
		Disable disableClientCommand `cmd:"" help:"Refuse a client, and take back all of its handoffs."`
		Enable  enableClientCommand  `cmd:"" help:"Let a disabled client call again. What was taken back stays so."`
		Key     struct {
			Add    addClientKeyCommand    `cmd:"" help:"Give a client another key: two at most, while they change."`
			Remove removeClientKeyCommand `cmd:"" help:"Take a key from a client, and take back all of its handoffs, also those that it asked for with another key."`
		} `cmd:"" help:"Change a client's keys."`
	} `cmd:"" help:"Manage the API clients, which call with keys of their own in place of sessions, whether or not the server is running."`
	Revoke revokeCommand `cmd:"" help:"Take handoffs back that this server has issued, by one of --handoff, --session and --subject, whether or not the server is running. What its key has signed elsewhere (\"handoff issue\") is taken back for certain only by tainting the key (\"keys taint\"). Refused where no server has published a trust list, as nobody would learn of it."`
	Backup backupCommand `cmd:"" help:"Copy a SQLite database to a file, whether or not the server is running. The keys are not in it."`
	Audit  struct {
		Export exportCommand `cmd:"" help:"Write what was done, an object of JSON a line, oldest first."`
	} `cmd:"" help:"Read the audit."`
	Keys struct {
		List     listKeysCommand `cmd:"" help:"List the signing keys and their states."`
		Public   publicCommand   `cmd:"" help:"Write the public half of a key, which SERVER2 takes, as \"handoff public\" does: of one in a PKCS#11 token as well."`
		Prepare  prepareCommand  `cmd:"" help:"Make a key and publish it. It does not sign yet."`
		Activate activateCommand `cmd:"" help:"Have a prepared key sign. Refused, with how long to wait, while an audience may not have heard of it."`
		Retire   retireCommand   `cmd:"" help:"End a key that signed before. Refused, with how long to wait, while a process may still sign with it. It stays published until its last token is dead."`
		Taint    taintCommand    `cmd:"" help:"Unpublish a key at once, for good: what it has signed is refused. Where it is the one that signs, the first prepared key whose private half can be read does in its place."`
	} `cmd:"" help:"Change the signing keys of a server that has a trust key, whether or not it is running."`
}

type serveCommand struct {
	serving.Flags
	postgres.Pool

	Issuer           string        `required:"" placeholder:"URL" help:"This service's own name, https://…: the iss of every token, by which audiences trust it."`
	Key              string        `placeholder:"FILE|URI" help:"Signing key, as \"handoff keygen\" makes it, readable by its owner alone; or pkcs11:… (RFC 7512), in a build that \"make pkcs11\" makes. Required unless --key-dir is set."`
	KeyDir           string        `placeholder:"DIR" help:"Folder of signing keys that change, a file each, for its owner alone; shared by all processes of one issuer. Made where there is none, with a first key unless --key is it. Needs --trust-key, as audiences learn of keys by the trust list."`
	RotateEvery      time.Duration `default:"0s" placeholder:"TIME" help:"How often the signing key changes. 0s: when \"keys\" says so. Needs --key-dir."`
	TrustKey         string        `placeholder:"FILE|URI" help:"Key that signs the trust list and nothing else, as \"handoff keygen\" makes it, or pkcs11:… as --key. Unless set, no trust list is published and no handoff can be taken back: RevokeHandoff and \"revoke\" refuse, and ending a session or a user leaves handoffs alive until they expire."`
	TrustLifetime    time.Duration `default:"60s" placeholder:"TIME" help:"How long a trust list lives, in whole seconds from 2s to 24h: the longest age at which any audience relies on one (its --max-staleness). A new key is published for as long before it signs."`
	TrustFile        string        `placeholder:"FILE" help:"Where the newest trust list is kept as well, replaced atomically."`
	HTTP             string        `name:"http" placeholder:"HOST:PORT" help:"Address to serve the trust list (/.well-known/handoff-trust) and the public keys (/.well-known/jwks.json) on, over HTTPS with TLS 1.3; and pages to sign in and to pay orders, if the policy says where an audience's pages are (web). The line \"https on ADDRESS\" on stdout tells which. Off unless set."`
	Skew             time.Duration `default:"5s" placeholder:"TIME" help:"How much the clocks of this issuer's processes, of PostgreSQL where that is the database, and of its audiences may differ, from 100ms to 60s."`
	Policy           string        `required:"" placeholder:"FILE" help:"JSON: which roles may hand off which methods to which audience. What it does not list is not allowed."`
	Descriptors      string        `placeholder:"FILE" help:"Descriptor set with the audiences' methods, as \"buf build -o FILE\" writes it. Unless set: the demo's own."`
	Rules            string        `placeholder:"FILE" help:"JSON with rules for methods whose .proto carries none, or with stricter ones: the text that the audience gives to its guard. Unless set: the rules that the methods carry."`
	Database         string        `required:"" placeholder:"FILE|URL" help:"Database of users, sessions, the audit, revocations and the keys' states: a SQLite file, made where there is none, or postgres://USER:PASSWORD@HOST/NAME, which several processes of one issuer can share (off this machine with ?sslmode=verify-full; better in the variable, as others can see arguments)."`
	Lifetime         time.Duration `default:"60s" placeholder:"TIME" help:"How long a token lives unless its user asks otherwise, where policy and rule allow that."`
	MaxLifetime      time.Duration `default:"300s" placeholder:"TIME" help:"Longest lifetime of a token that a user can ask for, in whole seconds up to 300s."`
	MaxVisitLifetime time.Duration `default:"0s" placeholder:"TIME" help:"Longest lifetime of a visit, by which a single-page application of an audience's reads for the user, in whole seconds up to 1h. What is taken back stays on the trust list for as long, and a key that is retired. 0s: no visits. Needs --trust-key, as only a trust list can end a visit."`
	Visits           string        `default:"signed" enum:"signed,listed" help:"Which visits stand: those that are signed and not taken back, or only those that the trust list names (listed), so that a stolen signing key opens none. A visit is then handed out once a list names it; each costs every audience 25 bytes, and 100,000 can be listed. The same for all processes of one issuer. One of: signed, listed."`
	SessionIdle      time.Duration `default:"30m" placeholder:"TIME" help:"How long a session lives without being used."`
	SessionLifetime  time.Duration `default:"12h" placeholder:"TIME" help:"How long a session lives however much it is used. A user has 100 at most: one more ends the one that has not been used for the longest time, and takes its handoffs back."`
	AuditRetention   time.Duration `default:"2160h" placeholder:"TIME" help:"How long the database keeps the audit of what was done in the users' names, at least 24h. 0s: for ever, however large it grows."`
	HandoffQuota     int           `default:"600" placeholder:"N" help:"How many handoffs one user can be issued a minute, and how often one can ask to take one back. Each leaves a row in the audit and a line in the log. Each process counts for itself."`
	MaxVisits        int           `default:"50" placeholder:"N" help:"How many visits of one user can stand at once. One that has expired or is taken back counts no more, nor one whose session is over."`
	MaxGrants        int           `default:"20" placeholder:"N" help:"How many grants one user can have, by which API clients act for them; and how many one can make a minute; twice as many, and 20 at least, one can ask to withdraw. Each process counts these for itself."`
	GrantLifetime    time.Duration `default:"2160h" placeholder:"TIME" help:"How long a grant can stand, at least 1m, which each does unless it is withdrawn."`
	SignInAttempts   int           `default:"10" placeholder:"N" help:"How often a minute one network (IPv4 /24, IPv6 /64) can try to sign in to one account, and ten times that to all accounts; an IPv6 /48 four times what a network can. One account can be tried 20 times as often from everywhere together, and by a user with a session, who changes the password, as often again. Each process counts for itself. Behind a proxy all users are one network: set it to what they need together, and limit each client in the proxy."`

	FollowerNetwork []serving.Network `placeholder:"CIDR" help:"Network of audiences that follow the trust list, such as 192.0.2.0/24. Can be given several times. Half of the places of WatchTrustList, and of the health service's Watch, are kept for these networks (a quarter of --max-connections can be open of each). An audience without a place asks for the list twice a second."`
}

// Help shows what a policy is.
func (serveCommand) Help() string {
	return "A policy (--policy), which lets users with the role payer have one invoice paid, by a token of 30 s at most, over gRPC or in a browser:\n\n" +
		examplePolicy
}

const examplePolicy = `    {
      "audiences": {
        "https://billing.example": {
          "target": "dns:///billing.example:8442",
          "web": "https://billing.example",
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

// ofUser is a user who is there.
type ofUser struct {
	existing
	Name string `arg:"" help:"The user's name."`
}

// ofClient is a client that is there.
type ofClient struct {
	existing
	Name string `arg:"" help:"The client's name."`
}

type (
	listCommand     struct{ existing }
	disableCommand  struct{ ofUser }
	enableCommand   struct{ ofUser }
	passwordCommand struct{ ofUser }
)

type roleCommand struct {
	ofUser
	Add    []string `placeholder:"ROLE" help:"A role to give, as the policy names it. Can be given several times."`
	Remove []string `placeholder:"ROLE" help:"A role to take. Can be given several times."`
}

type addClientCommand struct {
	Database string   `required:"" placeholder:"FILE|URL" help:"The server's database: a SQLite file, made where there is none, or postgres://…"`
	Name     string   `required:"" placeholder:"NAME" help:"What the client is called: 1 to 64 characters of a-z, 0-9, \".\", \"_\" and \"-\"; not a user's name."`
	Key      string   `required:"" placeholder:"FILE" help:"The client's public key, as \"handoff public\" writes it from what \"handoff keygen\" has made. The client keeps the private half."`
	Role     []string `placeholder:"ROLE" help:"A role, as the policy names it. Can be given several times."`
}

type (
	listClientsCommand   struct{ existing }
	disableClientCommand struct{ ofClient }
	enableClientCommand  struct{ ofClient }
)

type addClientKeyCommand struct {
	ofClient
	Key string `required:"" placeholder:"FILE" help:"The new public key."`
}

type removeClientKeyCommand struct {
	ofClient
	Kid string `arg:"" help:"The key's id, as \"client list\" shows it."`
}

type revokeCommand struct {
	existing
	Handoff []string `sep:"none" xor:"what" placeholder:"ID" help:"One handoff or visit, by its id (jti). Repeat it for each, as with the others; the first that is unknown ends the command."`
	Session []string `sep:"none" xor:"what" placeholder:"ID" help:"A session, which ends, or a grant, which is withdrawn, and all of its handoffs, by the id that they carry (sid)."`
	Subject []string `sep:"none" xor:"what" placeholder:"ID" help:"All handoffs that this server has issued until now to a user, or to a client for itself and for users, by the user's or the client's id. The sessions and grants stay."`
}

type backupCommand struct {
	existing
	Out string `required:"" placeholder:"FILE" help:"The file to make, which must not exist yet."`
}

type exportCommand struct {
	existing
	Since since `placeholder:"TIME" help:"From when on: a time such as 2026-01-31T00:00:00Z, or how long ago, such as 24h. Unless set: all that is kept."`
}

type listKeysCommand struct{ existing }

type publicCommand struct {
	Key string `required:"" placeholder:"FILE|URI" help:"The private key: a file, or pkcs11:… as with \"serve\"."`
}

type prepareCommand struct {
	existing
	KeyDir string `required:"" placeholder:"DIR" help:"The server's folder of signing keys. Refused where it lacks the key that signs now. What root makes there belongs to the folder's owner."`
	Key    string `placeholder:"FILE|URI" help:"The server's --key, where it has one beside the folder: it may be the one that signs."`
	Lost   string `placeholder:"KID" help:"The id of the key that signs, where its private half is lost for good: the folder need not have it. Taint that key next, which has the new one sign."`
}

type activateCommand struct {
	existing
	KeyDir string `placeholder:"DIR" help:"The server's folder of signing keys, so that a key whose private half is not there is refused."`
	Kid    string `arg:"" help:"The key's id."`
}

type retireCommand struct {
	existing
	KeyDir string `placeholder:"DIR" help:"The server's folder of signing keys, so that the private half is removed."`
	Kid    string `arg:"" help:"The key's id."`
}

type taintCommand struct {
	existing
	KeyDir string `placeholder:"DIR" help:"The server's folder of signing keys, so that the private half is removed, and no key begins to sign whose private half is not there."`
	Key    string `placeholder:"FILE|URI" help:"The server's --key, where it has one beside the folder: it may be the one that signs then."`
	Kid    string `arg:"" help:"The key's id."`
}

type probeCommand struct {
	serving.Probe
}

func (c *probeCommand) run(ctx context.Context, _ console) error { return c.Ask(ctx) }

// commands is the program as its command line is.
func commands() commandline.Program {
	return commandline.Program{
		Name:        program,
		Description: "The demo SERVER1: users sign in, and hand off single operations, which its policy permits, to other services.",
		Prefix:      "HANDOFF_SERVER1_",
		Vars:        kong.Vars{"listen": "127.0.0.1:8441"},
	}
}

// parse returns the command that args and env choose, or nil where they asked
// for help or the version.
func parse(args, env []string, stdout *commandline.Output) (command, error) {
	chosen, err := commands().Parse(new(commandLine), args, env, stdout)
	switch {
	case err != nil:
		return nil, &serving.SettingError{Err: err}
	case chosen == nil:
		return nil, nil
	}
	return chosen.Target.Addr().Interface().(command), nil
}
