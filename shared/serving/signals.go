package serving

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// hangups is the key of a context's channel of SIGHUPs.
type hangups struct{}

// UntilSignal returns a context that ends with SIGINT or SIGTERM; a second one ends
// the program at once. Two other signals never end it. SIGPIPE does not: the one who
// reads the log may go away, and then lines are lost, not calls. (LogWriter sees to one
// who stays and does not read.) SIGHUP does not: Run, with this context, reads the files
// again. Call it first in main.
func UntilSignal() context.Context {
	signal.Ignore(syscall.SIGPIPE)
	received := make(chan os.Signal, 1)
	signal.Notify(received, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return context.WithValue(ctx, hangups{}, (<-chan os.Signal)(received))
}

// reload reads the files again with each SIGHUP, until ctx is done.
func (s *Server) reload(ctx context.Context) {
	received, _ := ctx.Value(hangups{}).(<-chan os.Signal)
	for {
		select {
		case <-ctx.Done():
			return
		case <-received:
			s.config.Log.Info("reading the files again")
			s.pair.files.Look()
			if s.admin != nil && s.admin.clients != nil {
				s.admin.clients.Look()
			}
			for _, look := range s.config.Reload {
				look()
			}
		}
	}
}
