package serving_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/handoff-auth/handoff/shared/serving"
)

// A program is its flags, New and Run; Exit turns a setting that is wrong into
// one line and exit status 2.
func Example() {
	run := func(ctx context.Context, flags serving.Flags) error {
		server, err := serving.New(serving.Config{
			Flags:     flags,
			Log:       slog.New(slog.DiscardHandler),
			Listening: func(a net.Addr) { fmt.Println("listening on", a) },
		})
		if err != nil {
			return err
		}
		// Here the program registers its services on server.GRPC().
		return server.Run(ctx)
	}
	err := run(context.Background(), serving.Flags{
		Listen: "127.0.0.1:0", TLSCert: "billing.crt", TLSKey: "billing.key", MaxConnections: 4096,
	})
	fmt.Println("exit status", serving.Exit(os.Stdout, "billing", err))
	// Output:
	// billing: --tls-cert: open billing.crt: no such file or directory
	// exit status 2
}
