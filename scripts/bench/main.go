// Command bench measures handoff beside what people would use in its place, in
// one run on one machine, and prints one table of medians with ratios.
//
//	make bench                                  # everything, some ten minutes
//	go run -C scripts/bench . -short verify     # a section, a look
//	go run -C scripts/bench . -write            # keep the table in RESULTS.md
//
// # How it measures
//
// What is compared runs in turn, round after round, over the same tokens, and a
// ratio is the median of the rounds' own ratios: whatever else the machine does
// hits all alike. The time of an operation is processor time, of every thread of
// the process, the garbage collector's as well, with GOMAXPROCS 1. Where a
// latency or a rate on the wire is measured, it says so.
//
// Every operation's outcome is checked. One that fails ends the run.
//
// # What is not reached
//
// A guarded call was to cost the server no more than 1/0.92 of an unprotected
// call and the signature check alone. It cannot. In the profile of the server
// (-profile) 55 % of its time is ed25519.Verify, 12 % the guard's own: 4 % strict
// JSON, 3 % the redemption, 1.5 % the request's fields, and the rest base64,
// hashes and clocks. Were all of that free, the ratio would be 0.83, for the bound
// leaves out what only a protected call has: a token of some 600 bytes, whose
// Huffman code alone takes 7 % to read ("with a token on the way" shows it), and
// the check is slower between other work than in a loop of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are the flags.
type settings struct {
	short bool   // fewer rounds, smaller stores: numbers to look at, not to keep
	write bool   // keep the table in RESULTS.md
	bin   string // the folder of the built programs
	dir   string // for what the run keeps; it goes with the run

	profile string // a folder for the servers' profiles; empty: none are made
	say     func(format string, args ...any)
}

// sections are what is measured, in the order of the table.
func sections() []section {
	return []section{
		{"verify", "from a token's bytes to a grant, beside the signature check alone", measureVerify},
		{"issue", "from a typed request to a token, beside the signature alone", measureIssue},
		{"refuse", "a hostile token", measureRefuse},
		{"trust", "what SERVER1 has taken back", measureTrust},
		{"redeem", "the embedded stores", measureRedeem},
		{"wire", "a call over TLS", measureWire},
		{"round", "the demo pair as it is: a handoff from a session to a payment", measureRound},
		{"replicas", "single use over one Redis", measureReplicas},
		{"overload", "three times what one processor can do", measureOverload},
	}
}

type section struct {
	name, about string
	measure     func(context.Context, settings, *table) error
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	children := map[string]func() error{ // what it starts of itself
		"serve": func() error { return serve(ctx, os.Stdin, os.Stdout) },
		"beat":  func() error { return beat(os.Stdout) },
	}
	if len(os.Args) == 2 && children[os.Args[1]] != nil {
		if err := children[os.Args[1]](); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&s.short, "short", false, "shorten every section: numbers to look at, not to keep")
	flags.BoolVar(&s.write, "write", false, "write the table to "+resultsFile+", with the machine, the versions and the date")
	flags.StringVar(&s.bin, "bin", "../../bin", "the `folder` of the programs that make build builds")
	flags.StringVar(&s.profile, "profile", "", "a `folder` for profiles of what the servers spend their processor time on")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: bench [flags] [section ...]")
		for _, of := range sections() {
			fmt.Fprintf(stderr, "  %-10s %s\n", of.name, of.about)
		}
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "handoff-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	start := time.Now()
	s.say = func(format string, args ...any) {
		fmt.Fprintf(stderr, "%4.0f s  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	var results table
	for _, of := range chosen {
		s.say("%s: %s", of.name, of.about)
		results.begin(of.name, of.about)
		if err := of.measure(ctx, s, &results); err != nil {
			return fmt.Errorf("%s: %w", of.name, err)
		}
	}
	s.say("done")
	if s.write {
		return results.write(ctx, args, time.Now())
	}
	return results.print(stdout)
}

// choose returns the named sections, or all.
func choose(names []string) ([]section, error) {
	all := sections()
	for _, name := range names {
		if !slices.ContainsFunc(all, func(of section) bool { return of.name == name }) {
			return nil, fmt.Errorf("there is no section %q", strings.ToValidUTF8(name, ""))
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(of section) bool { return !slices.Contains(names, of.name) }), nil
}
