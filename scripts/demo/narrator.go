package main

import (
	"fmt"
	"io"
	"time"
)

// narrator tells the story, one line for each step, and counts the steps that went wrong.
type narrator struct {
	out   io.Writer
	steps int
	wrong int
}

// chapter opens a part of the story.
func (n *narrator) chapter(title string) { fmt.Fprintf(n.out, "\n%s\n", title) }

// step tells one step: what was done, and what came of it. Where that is not what was
// expected, both are told, and the step counts as wrong.
func (n *narrator) step(did, expected, happened string) {
	n.steps++
	if happened == expected {
		fmt.Fprintf(n.out, "%3d ok    %s: %s\n", n.steps, did, happened)
		return
	}
	n.wrong++
	fmt.Fprintf(n.out, "%3d WRONG %s: expected %s, got %s\n", n.steps, did, expected, happened)
}

// slowly runs something that may take a while, with a line of progress once it
// has taken two seconds, and each ten after that.
func slowly(out io.Writer, what string, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	began := time.Now()
	for wait := 2 * time.Second; ; wait = 10 * time.Second {
		select {
		case err := <-done:
			return err
		case <-time.After(wait):
			fmt.Fprintf(out, "    … %s (%s)\n", what, time.Since(began).Round(time.Second))
		}
	}
}
