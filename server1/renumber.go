package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// run has trust lists numbered by the time again.
func (c *renumberCommand) run(ctx context.Context, std console) (err error) {
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ahead, err := db.Renumber(ctx, time.Now())
	switch {
	case err != nil:
		return err
	case !ahead:
		return errors.New("the last trust list is numbered no further ahead than clocks may differ: there is nothing to mend")
	}
	fmt.Fprintln(std.stdout, "the next trust list is numbered by the time")
	return nil
}
