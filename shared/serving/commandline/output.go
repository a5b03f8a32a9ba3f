package commandline

import (
	"cmp"
	"fmt"
	"io"
)

// Output is a program's standard output. It remembers a write that failed, so that no
// command ends well though what it has printed is lost. It is not safe for concurrent
// use.
type Output struct {
	To  io.Writer
	err error
}

// Write writes to To. Its errors say that it is standard output.
func (o *Output) Write(b []byte) (int, error) {
	n, err := o.To.Write(b)
	if err != nil {
		err = fmt.Errorf("standard output: %w", err)
	}
	o.err = cmp.Or(o.err, err)
	return n, err
}

// Err returns the error of the first write that failed, or nil.
func (o *Output) Err() error { return o.err }
