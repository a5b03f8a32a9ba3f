// Command handoff-server1 is the demo SERVER1: users sign in, and hand off single
// operations, which its policy permits, to other services.
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
//	user.go             the users
//	serve.go            the parts and their wiring
//	publish.go          the trust list and the signing keys
//	revoke.go, keys.go  what is taken back, and steps in the life of a key, by hand
//	internal/           session (sign-in), account (passwords), policy (who may hand off what), issue (the handoff
//	                    and its revocation), signing (the keys), upkeep (what others have changed), database and
//	                    audit (the record), answer (refusals in words)
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/handoff-auth/handoff/shared/serving"
)

const program = "handoff-server1"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run is the program. It returns its exit status: 0; 1 if it failed; 2 if a
// setting was wrong, before a port was open.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	chosen, err := parse(args, env, stdout)
	if err == nil && chosen != nil {
		err = chosen.run(ctx, console{stdin, stdout, stderr})
	}
	return serving.Exit(stderr, program, err)
}

// console is where a command reads and writes.
type console struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}
