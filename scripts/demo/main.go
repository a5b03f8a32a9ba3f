// Command demo runs the pair of demo services and shows a handoff between them.
//
// Without arguments it starts SERVER1 and SERVER2 as two processes on free
// loopback ports, tells the story of a handoff and of every attempt that must
// fail, stops both, and exits with 0 only if every line went as told.
//
//	demo run
//
// leaves the pair running, for the commands sign-in, issue, pay and export.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

type commands struct {
	Story  storyCommand  `cmd:"" default:"1" help:"Tell the story of a handoff, between two processes (the default)."`
	Run    runCommand    `cmd:"" help:"Leave the pair running until Ctrl-C, for the commands below."`
	SignIn signInCommand `cmd:"" help:"Sign in at SERVER1, and keep the session for the next commands."`
	Issue  issueCommand  `cmd:"" help:"Hand off the payment of an invoice, and keep the token for pay."`
	Pay    payCommand    `cmd:"" help:"Call SERVER2 with the token that issue kept."`
	Export exportCommand `cmd:"" help:"Hand off an export of the user's payments, and call SERVER2 with it."`
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := perform(ctx, os.Args[1:], os.Stdout)
	if ctx.Err() != nil {
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

// Run tells the story in a folder that it leaves no trace of.
func (storyCommand) Run(ctx context.Context, stage *stage) (err error) {
	dir, err := os.MkdirTemp("", "handoff-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	began := time.Now()

	p, err := stage.start(ctx, dir)
	if err != nil {
		return err
	}
	n := &narrator{out: stage.out}
	err = tellOf(ctx, p, n)
	if stopped := p.Stop(); stopped != nil {
		return errors.Join(err, stopped)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stage.out, "\nBoth processes have stopped. %d of %d lines went as told, in %s.\n",
		n.steps-n.wrong, n.steps, time.Since(began).Round(100*time.Millisecond))
	if n.wrong > 0 {
		return fmt.Errorf("%d lines went otherwise than told", n.wrong)
	}
	return nil
}

func tellOf(ctx context.Context, p *pair.Pair, n *narrator) error {
	client, err := p.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	return (&story{narrator: n, pair: p, client: client}).tell(ctx)
}

// The clocks are one machine's own, and nobody wants to wait: both are less than a
// real pair would have.
const (
	skew         = 500 * time.Millisecond
	maxStaleness = 2 * time.Second
)

// start starts the pair, and says where it is.
func (s *stage) start(ctx context.Context, dir string, flags ...string) (*pair.Pair, error) {
	var p *pair.Pair
	err := slowly(s.out, "making keys and starting both servers", func() (err error) {
		p, err = pair.Start(ctx, pair.Config{
			Bin: s.bin, Dir: dir, Trust: true,
			Server1: slices.Concat(flags, []string{"--skew", skew.String(), "--trust-lifetime", maxStaleness.String(), "--sign-in-attempts", "100"}),
			Server2: slices.Concat(flags, []string{"--skew", skew.String(), "--max-staleness", maxStaleness.String()}),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(s.out, "SERVER1  %-26s %s  process %d: users, sessions, signing keys\n", pair.Issuer, p.Server1.Address, p.Server1.Pid())
	fmt.Fprintf(s.out, "SERVER2  %-26s %s  process %d: invoices, and SERVER1's public trust key\n", pair.Audience, p.Server2.Address, p.Server2.Pid())
	err = slowly(s.out, "SERVER2 does not know what was spent before it began: it waits until such tokens have no effect", func() error {
		return p.Ready(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}
