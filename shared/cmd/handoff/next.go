package main

import (
	"fmt"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

func (p *program) taken(verb, kid string, f keyFolder) error {
	s, err := f.read()
	if err != nil {
		return dirError(err)
	}
	fmt.Fprintf(p.out, "%s %s\n\n", verb, kid)
	return p.showKeys(f, s)
}

// showKeys prints the state of the keys, what is wrong with them, and what to do.
func (p *program) showKeys(f keyFolder, s keyState) error {
	now := p.now()
	s.ring = s.ring.Settle(now, s.terms) // as the next step would find it
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tALG\tSTATE\tPREPARED\tACTIVATED\tENDED\tLISTED UNTIL") // as SERVER1's command
	for _, k := range s.ring.Records() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Key.ID(), k.Key.Algorithm(), s.ring.Shown(k),
			showTime(k.Prepared), showTime(k.Activated), showTime(k.Ended), showTime(k.Until))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(p.out)
	for _, k := range s.ring.Records() {
		if k.State != rotation.Next && k.State != rotation.Active {
			continue // it will not sign again
		}
		if _, err := f.keys().Load(k.Key.ID()); err != nil {
			fmt.Fprintf(p.out, "PROBLEM: this key cannot sign: %s\n", err)
		}
	}
	for _, next := range nextSteps(s) {
		fmt.Fprintf(p.out, "%s: %s\n", when(next.At, now), f.command(next))
	}
	return nil
}

// nextSteps returns all the steps that can be taken, each with the time from which
// on it is allowed. A zero time means at any time: nothing waits for it.
func nextSteps(s keyState) (steps []rotation.Step) {
	signing, signs := s.ring.Signing()
	prepared := false
	for _, k := range s.ring.Records() {
		kid := k.Key.ID()
		switch {
		case k.State == rotation.Next && !signs:
			steps, prepared = append(steps, rotation.Step{Verb: rotation.DueActivate, Kid: kid, At: k.Prepared}), true
		case k.State == rotation.Next:
			steps, prepared = append(steps, rotation.Step{Verb: rotation.DueActivate, Kid: kid, At: k.Prepared.Add(s.terms.Before())}), true
		case k.State == rotation.Active && kid != signing:
			steps = append(steps, rotation.Step{Verb: rotation.DueRetire, Kid: kid, At: s.ring.Retirable(s.terms)})
		}
	}
	if !prepared {
		steps = append(steps, rotation.Step{Verb: rotation.DuePrepare})
	}
	return steps
}

func when(at, now time.Time) string {
	switch wait := at.Sub(now); {
	case at.IsZero():
		return "next, at any time"
	case wait > time.Millisecond: // a ring's times are rounded up to one
		return fmt.Sprintf("next, in %s, from %s on", roundUp(wait), showEnd(at))
	}
	return "next, now"
}

// command returns the command line that takes a step.
func (f keyFolder) command(step rotation.Step) string {
	dir := string(f)
	if !plain.MatchString(dir) {
		dir = "'" + strings.ReplaceAll(visible(dir), "'", `'\''`) + "'"
	}
	command := fmt.Sprintf("handoff keys %s --dir=%s", step.Verb, dir)
	if step.Kid != "" {
		return command + " --kid=" + step.Kid
	}
	return command + "  # so that a key is ready when this one must go"
}

// plain is what a shell takes as it is.
var plain = regexp.MustCompile(`^[A-Za-z0-9/._-]+$`)

func roundUp(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }

func showTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// showEnd prints the whole second by which a time has come.
func showEnd(t time.Time) string { return showTime(t.Add(time.Second - 1)) }
