package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/handoff-auth/handoff/server2/internal/invoices"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/serving"
)

// maxSeed bounds the file of invoices, in bytes.
const maxSeed = 16 << 20

func (c *seedCommand) run(ctx context.Context, stdout, _ io.Writer) error {
	text, err := readSeed(c.Invoices)
	if err != nil {
		return &serving.SettingError{Err: err}
	}
	all, err := invoices.Parse(text)
	if err != nil {
		return &serving.SettingError{Err: fmt.Errorf("%s: %w", c.Invoices, err)}
	}
	db, err := ledger.Open(ctx, c.Database)
	if err != nil {
		return wrong("database", err)
	}
	added, err := db.Add(ctx, all)
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("no invoice was added: %w", err)
	}
	rest := ""
	if added < len(all) {
		rest = "; the others were there"
	}
	fmt.Fprintf(stdout, "added %d of %d invoices%s\n", added, len(all), rest)
	return nil
}

func readSeed(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSeed+1))
	if err == nil && len(text) > maxSeed {
		err = fmt.Errorf("%s has more than %d bytes", name, maxSeed)
	}
	return string(text), err
}
