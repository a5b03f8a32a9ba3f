package server1

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// since is a moment: by itself, or how long ago it is.
type since time.Time

// UnmarshalText reads 2026-01-31T00:00:00Z, or 24h.
func (s *since) UnmarshalText(text []byte) error {
	if ago, err := time.ParseDuration(string(text)); err == nil && ago >= 0 {
		*s = since(time.Now().Add(-ago))
		return nil
	}
	at, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return errors.New("must be a time such as 2026-01-31T00:00:00Z, or how long ago, such as 24h")
	}
	*s = since(at)
	return nil
}

// run writes the audit, an object a line, and holds a part of it at a time.
func (c *exportCommand) run(ctx context.Context, std console) error {
	return c.with(ctx, func(db *database.DB) error {
		out := bufio.NewWriterSize(std.stdout, 64<<10)
		line := json.NewEncoder(out)
		line.SetEscapeHTML(false)
		if err := db.Audit(ctx, time.Time(c.Since), func(row database.AuditRow) error { return line.Encode(row) }); err != nil {
			return err
		}
		return out.Flush()
	})
}

// run copies the database to a new file, which only its owner can read, from before anything is in it.
func (c *backupCommand) run(ctx context.Context, std console) error {
	return c.with(ctx, func(db *database.DB) (err error) {
		file, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return wrong("out", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		if err := db.Backup(ctx, c.Out); err != nil {
			return errors.Join(err, os.Remove(c.Out))
		}
		if err := file.Sync(); err != nil {
			return err
		}
		fmt.Fprintf(std.stdout, "copied the database to %s\n", c.Out)
		return vetted.SyncFolder(filepath.Dir(c.Out))
	})
}
