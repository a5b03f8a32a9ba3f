// Package server1 is the program handoff-server1, the demo SERVER1: users sign in, and
// hand off single operations, which its policy permits, to other services.
//
//	handoff-server1 user add --database server1.db --name alice --role payer < password
//	handoff-server1 --listen :8441 --tls-cert server1.crt --tls-key server1.key \
//	    --issuer https://server1.example --key server1.key.json --policy policy.json --database server1.db
//
// With a trust key it can take handoffs back, and change its signing keys:
//
//	handoff-server1 … --key-dir keys/ --rotate-every 24h --trust-key trust.key --http :8443
//	handoff-server1 revoke --database server1.db --handoff=ID
//
// The files, in the order in which things happen:
//
//	flags.go, check.go  what the operator sets
//	user.go, client.go  the users, and the API clients
//	serve.go            the parts and their wiring
//	publish.go          the trust list and the signing keys
//	revoke.go, keys.go  what is taken back, and steps in the life of a key, by hand
//	audit.go            what was done, and a copy of the database
//	cmd/                the program; pkcs11/ is another build of it, with keys in PKCS#11 tokens
//	internal/           session (sign-in), account (passwords), client (the API clients), grants (whom
//	                    they act for), policy (who may hand off what), issue (the handoff
//	                    and its revocation), signing (the keys), upkeep (what others have changed), database and
//	                    audit (the record), answer (refusals in words), pages (all of it in a browser)
package server1

import (
	"context"
	"io"
	"os"

	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/commandline"
	"github.com/handoff-auth/handoff/shared/signkey"
)

const program = "handoff-server1"

// Config is what a build of the program can have beside what all have.
type Config struct {
	// PKCS11 loads a signing key whose private half stays in a PKCS#11 token, by its URI
	// (RFC 7512). Nil: such a key is refused.
	PKCS11 func(uri string) (*signkey.Key, error)
}

// Main is the program. It does not return.
func Main(c Config) {
	if err := serving.KeepMemory(); err != nil {
		os.Exit(serving.Exit(os.Stderr, program, err))
	}
	ctx := serving.UntilSignal()
	go serving.SpendMemory(ctx)
	os.Exit(c.run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run runs the program. It returns its exit status: 0; 1 if it failed; 2 if a
// setting was wrong, before a port was open.
func (c Config) run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &commandline.Output{To: stdout}
	chosen, err := parse(args, env, out)
	if err == nil && chosen != nil {
		err = chosen.run(ctx, console{stdin, out, stderr, c})
	}
	if _, serves := chosen.(*serveCommand); err == nil && !serves { // a server goes on though nobody reads
		err = out.Err()
	}
	return serving.Exit(stderr, program, commands().Blame(err, args, env))
}

// console is where a command reads and writes.
type console struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	build Config
}
