// Command demo runs the pair of demo services and shows a handoff between them.
//
// Without arguments it starts SERVER1 and SERVER2 as two processes on free
// loopback ports, tells the story of a handoff and of every attempt that must
// fail, stops both, and exits with 0 only if every line went as expected.
//
//	demo run
//
// leaves the pair running, for the commands sign-in, issue, pay and export, and
//
//	demo cluster
//
// tells the same story, and more, of two SERVER1s over a PostgreSQL and three
// SERVER2s over another database and a Redis, all of which it starts itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

type commands struct {
	Story   storyCommand   `cmd:"" default:"1" help:"Tell the story of a handoff, between two processes (the default)."`
	Cluster clusterCommand `cmd:"" help:"Tell it of two SERVER1s and three SERVER2s, over a PostgreSQL and a Redis of their own."`
	Run     runCommand     `cmd:"" help:"Leave the pair running until Ctrl-C, for the commands below."`
	SignIn  signInCommand  `cmd:"" help:"Sign in at SERVER1, and keep the session for the next commands."`
	Issue   issueCommand   `cmd:"" help:"Hand off the payment of an invoice, and keep the token for pay."`
	Pay     payCommand     `cmd:"" help:"Call SERVER2 with the token that issue kept."`
	Export  exportCommand  `cmd:"" help:"Hand off an export of the user's payments, and call SERVER2 with it."`
}

// stage is where everything happens: the folder of the built programs, and the
// console.
type stage struct {
	bin string
	out io.Writer
}

// near is a path as it is shortest to type from here.
func near(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if relative, err := filepath.Rel(here, path); err == nil && len(relative) < len(path) {
		return relative
	}
	return path
}

func main() {
	signal.Ignore(syscall.SIGPIPE) // the reader may go away: the servers are stopped all the same
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := perform(ctx, os.Args[1:], os.Stdout)
	if err != nil && ctx.Err() != nil {
		fmt.Println("\nstopped")
		os.Exit(130) // as a shell reports what Ctrl-C has ended
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}

func perform(ctx context.Context, args []string, out io.Writer) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	parser, err := kong.New(&commands{},
		kong.Name("demo"),
		kong.Description("Two gRPC services that share nothing but a public key, and a user who acts across them."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(&stage{bin: filepath.Dir(program), out: out}))
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if err != nil {
		return err
	}
	return command.Run()
}

type storyCommand struct{}

func (storyCommand) Run(ctx context.Context, stage *stage) error {
	return stage.tell("Both processes have stopped.", func(n *narrator, dir string) error {
		return stage.with(ctx, pair.Config{Dir: dir, Visits: visits}, func(p *pair.Pair) error {
			client, err := p.Dial()
			if err != nil {
				return err
			}
			defer client.Close()
			return (&story{narrator: n, pair: p, client: client, first: client}).tell(ctx)
		})
	})
}

// tell has a story told in a folder that it leaves no trace of.
func (s *stage) tell(end string, tell func(n *narrator, dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "handoff-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	began := time.Now()
	n := &narrator{out: s.out}
	if err := tell(n, dir); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\n%s %d of %d lines went as expected, in %s.\n", end, n.steps-n.wrong, n.steps, time.Since(began).Round(100*time.Millisecond))
	if n.wrong > 0 {
		return fmt.Errorf("%d lines did not go as expected", n.wrong)
	}
	return nil
}

// with has servers run while something is done with them.
func (s *stage) with(ctx context.Context, config pair.Config, do func(*pair.Pair) error) error {
	p, err := s.start(ctx, config)
	if err != nil {
		return err
	}
	return errors.Join(do(p), p.Stop())
}

// The clocks are one machine's own, and nobody wants to wait: both are less than a
// real pair would have.
const (
	skew         = 500 * time.Millisecond
	maxStaleness = 2 * time.Second
	visits       = 5 * time.Minute // no key stays longer on the list for them than for handoffs
)

// start starts the servers, and says where they are.
func (s *stage) start(ctx context.Context, config pair.Config) (*pair.Pair, error) {
	config.Bin, config.Trust = s.bin, true
	config.Server1 = append(config.Server1, "--skew", skew.String(), "--trust-lifetime", maxStaleness.String(), "--sign-in-attempts", "100", "--handoff-quota", "10000")
	config.Server2 = append(config.Server2, "--skew", skew.String(), "--max-staleness", maxStaleness.String())
	var p *pair.Pair
	err := slowly(s.out, "making keys and starting the servers", func() (err error) {
		p, err = pair.Start(ctx, config)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, of := range p.Issuers {
		fmt.Fprintf(s.out, "SERVER1  %-26s %s  process %d: users, sessions, signing keys\n", pair.Issuer, of.Address, of.Pid())
	}
	for _, of := range p.Audiences {
		fmt.Fprintf(s.out, "SERVER2  %-26s %s  process %d: invoices, and SERVER1's public trust key\n", pair.Audience, of.Address, of.Pid())
	}
	err = slowly(s.out, "SERVER2 does not know what was spent before it began: it waits until such tokens have no effect", func() error {
		return p.Ready(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}
