// Command handoff-server2 is the demo SERVER2: invoices, for users whom it has
// never seen, who prove by a handoff token who asks and for what.
//
//	handoff-server2 seed --database server2.db invoices.json
//	handoff-server2 --listen :8442 --tls-cert server2.crt --tls-key server2.key \
//	    --audience https://server2.example --issuer https://server1.example \
//	    --keys server1.jwks --database server2.db
//
// With --trust-key trust.jwks --trust grpc://server1.example:8441 in the place of
// --keys it follows SERVER1's trust list, and so what SERVER1 takes back.
//
// It holds public keys of SERVER1's and nothing that signs a token. The files, in
// the order in which things happen:
//
//	flags.go       what the operator sets
//	serve.go       the parts and their wiring
//	trust.go       whose tokens count: a file of keys, or SERVER1's trust list
//	single_use.go  where redemptions are remembered: memory, a journal, a Redis
//	seed.go        the invoices, for a start
//	internal/      audit, invoices (the handlers), ledger (the database)
package main

import (
	"context"
	"io"
	"os"

	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/commandline"
)

const program = "handoff-server2"

func main() {
	if err := serving.KeepMemory(); err != nil {
		os.Exit(serving.Exit(os.Stderr, program, err))
	}
	ctx := serving.UntilSignal()
	go serving.SpendMemory(ctx)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. It returns its exit status: 0; 1 if it failed; 2 if a
// setting was wrong, before a port was open.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &commandline.Output{To: stdout}
	chosen, err := parse(args, out)
	if err == nil && chosen != nil {
		err = chosen.run(ctx, out, stderr)
	}
	if _, serves := chosen.(*serveCommand); err == nil && !serves { // a server goes on though nobody reads
		err = out.Err()
	}
	return serving.Exit(stderr, program, commands().Blame(err, args, os.Environ()))
}
