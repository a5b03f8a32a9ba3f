// Command handoff makes and changes keys, issues and verifies handoff tokens and
// trust lists, and explains them, all offline.
//
//	handoff keygen --out shop.key
//	handoff public --key shop.key --out shop.jwks
//	handoff issue --key shop.key --issuer https://shop.example --audience https://billing.example \
//		--subject user-7 --method /billing.v1.Billing/Pay --field invoice=INV-42 |
//	handoff verify --keys shop.jwks --issuer https://shop.example --audience https://billing.example
//
// A signing key that changes is one of a folder:
//
//	handoff keys prepare --dir keys && handoff keys activate --dir keys
//	handoff keys list --dir keys
//
// Each command's --help documents its flags. Exit status 0 means done, or
// accepted; 1 refused; 2 a mistake in the usage or the configuration, said in one
// line that names the flag. Tokens and keys are read from files and standard
// input, never from arguments, which other users of the machine can see.
//
// keys keeps a folder for an issuer of your own, as package rotation says: a
// process reads ring.json with rotation.Parse, signs with the private half of
// Ring.Signing, KID.key, and publishes Ring.Listed. Look at it again at least as
// often as trust.Terms.Lag says.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"github.com/handoff-auth/handoff/shared/serving/commandline"
)

func main() {
	os.Exit(run(os.Args[1:], &program{in: os.Stdin, out: os.Stdout, err: os.Stderr, now: time.Now}))
}

// program is what a command has of the world.
type program struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time
}

// Exit statuses.
const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
)

// errRefused is the error of a command that has printed why it says no.
var errRefused = errors.New("refused")

type commands struct {
	Keygen  keygenCommand  `cmd:"" help:"Make a signing key."`
	Public  publicCommand  `cmd:"" help:"Print the public keys of signing keys, for the services that verify."`
	Issue   issueCommand   `cmd:"" help:"Sign a handoff token with a key file."`
	Inspect inspectCommand `cmd:"" help:"Show what a JWT says, unverified, and what is wrong with it."`
	Verify  verifyCommand  `cmd:"" help:"Verify handoff tokens; everything but redeeming them."`
	Keys    keysCommands   `cmd:"" help:"Change the signing key, without breaking a living token."`
	Trust   trustCommands  `cmd:"" help:"Look into a trust list."`
	Devcert devcertCommand `cmd:"" help:"Make a certificate authority and a server certificate for development."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

// run runs one command line and returns its exit status.
func run(args []string, p *program) (status int) {
	out := &commandline.Output{To: p.out}
	p.out = out
	var c commands
	parser, err := kong.New(&c,
		kong.Name("handoff"),
		kong.Description("Makes and changes keys, issues, verifies and explains handoff tokens and trust lists, offline."),
		kong.Vars{"version": "handoff " + commandline.Version()},
		kong.Writers(p.out, p.err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Exit(func(code int) { panic(helped(code)) }), // it has printed the help and must not go on
	)
	if err != nil {
		return p.fail(err)
	}
	for i, arg := range args { // kong would mend it, to something else
		if !utf8.ValidString(arg) {
			return p.fail(fmt.Errorf("argument %d is not UTF-8", i+1))
		}
	}
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case helped:
			if status = int(cause); out.Err() != nil {
				status = p.fail(out.Err())
			}
		default: // swallowed, it would read as accepted
			panic(cause)
		}
	}()
	selected, err := parser.Parse(commandline.Ids(parser.Model, args))
	if err == nil {
		err = commandline.NoneEmpty(selected)
	}
	if err != nil {
		return p.fail(cmp.Or(out.Err(), withoutSecrets(err))) // the former is of the help, which kong writes
	}
	err = selected.Run(p) // which need not look at what printing returns: out remembers
	if err == nil || errors.Is(err, errRefused) {
		err = cmp.Or(out.Err(), err)
	}
	if errors.Is(err, errRefused) {
		return exitRefused
	} else if err != nil {
		return p.fail(err)
	}
	return exitDone
}

type helped int

// withoutSecrets words a mistake in the command line without an argument that was
// not asked for: somebody may have put a token there.
func withoutSecrets(err error) error {
	worded := commandline.Discreet(err)
	mistake, ok := errors.AsType[*kong.ParseError](err)
	if !ok || !strings.HasPrefix(err.Error(), "unexpected argument ") || mistake.Context.Selected() == nil {
		return worded
	}
	switch mistake.Context.Selected().Target.Interface().(type) {
	case verifyCommand, inspectCommand:
		return fmt.Errorf("%w: the token is read from standard input", worded)
	}
	return worded
}

// fail prints an error in one line.
func (p *program) fail(err error) int {
	text := strings.Join(strings.Fields(err.Error()), " ")
	fmt.Fprintf(p.err, "handoff: %s\n", text)
	return exitUsage
}
