package server1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// run lists the signing keys.
func (c *listKeysCommand) run(ctx context.Context, std console) error {
	return c.with(ctx, func(db *database.DB) error {
		ring, err := db.Ring(ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(std.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "KEY\tALG\tSTATE\tPREPARED\tACTIVATED\tENDED\tLISTED UNTIL")
		for _, k := range ring.Records() {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Key.ID(), k.Key.Algorithm(), ring.Shown(k),
				shown(k.Prepared), shown(k.Activated), shown(k.Ended), shown(k.Until))
		}
		return table.Flush()
	})
}

func shown(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339)
}

// besideFolder returns the server's --key, which is in no folder; nil: there is none.
func (s console) besideFolder(key string) (*signkey.Key, error) {
	if key == "" {
		return nil, nil
	}
	return s.build.loadKey("key", key)
}

// run makes a key and has it listed.
func (c *prepareCommand) run(ctx context.Context, std console) error {
	first, err := std.besideFolder(c.Key)
	if err != nil {
		return err
	}
	return c.take(ctx, c.KeyDir, func(steps rotation.Steps, db *database.DB) error {
		steps.First, steps.Lost = first, c.Lost
		key, _, err := steps.Prepare(ctx, "")
		if missing, ok := errors.AsType[*rotation.MissingError](err); ok {
			way := "name the server's own folder, with --key FILE where the server has one"
			if errors.Is(err, fs.ErrNotExist) { // what is there is not lost
				way += "; where that key is lost for good, add --lost=" + missing.Kid
			}
			return wrong("key-dir", fmt.Errorf("%w: it is the key that signs: %s", err, way))
		}
		if err != nil {
			return err
		}
		terms, err := db.Terms(ctx, time.Now())
		return std.done(err, "prepared %s: it can be activated in %s\n", key.ID(), terms.Before())
	})
}

// run has a prepared key sign.
func (c *activateCommand) run(ctx context.Context, std console) error {
	return c.take(ctx, c.KeyDir, func(steps rotation.Steps, db *database.DB) error {
		ring, err := steps.Activate(ctx, c.Kid)
		if err != nil {
			return err
		}
		terms, err := db.Terms(ctx, time.Now())
		if err != nil {
			return err
		}
		fmt.Fprintf(std.stdout, "activated %s: it signs\n", c.Kid)
		for _, k := range ring.Records() {
			if kid := k.Key.ID(); k.State == rotation.Active && kid != c.Kid {
				fmt.Fprintf(std.stdout, "%s no longer signs: it can be retired in %s\n", kid, terms.Lag())
			}
		}
		return nil
	})
}

// run ends a key that signed before.
func (c *retireCommand) run(ctx context.Context, std console) error {
	return c.take(ctx, c.KeyDir, func(steps rotation.Steps, _ *database.DB) error {
		ring, err := steps.Retire(ctx, c.Kid)
		if err != nil {
			return err
		}
		for _, k := range ring.Records() {
			if k.Key.ID() == c.Kid {
				fmt.Fprintf(std.stdout, "retired %s: it stays listed until %s\n", c.Kid, shown(k.Until))
			}
		}
		left(std, steps, c.Kid)
		return nil
	})
}

// run takes a key out of the list.
func (c *taintCommand) run(ctx context.Context, std console) error {
	first, err := std.besideFolder(c.Key)
	if err != nil {
		return err
	}
	return c.take(ctx, c.KeyDir, func(steps rotation.Steps, _ *database.DB) error {
		steps.First = first
		ring, err := steps.Taint(ctx, c.Kid)
		if err != nil {
			return err
		}
		kid, _ := ring.Signing()
		fmt.Fprintf(std.stdout, "tainted %s: it is no longer listed; %s signs\n", c.Kid, kid)
		left(std, steps, c.Kid)
		return nil
	})
}

// left says that the private half of a key is where it was.
func left(std console, steps rotation.Steps, kid string) {
	if steps.Folder == "" {
		fmt.Fprintf(std.stdout, "its private half is left: delete %s.key in the server's folder, as --key-dir does\n", kid)
	}
}

// take opens what a step needs.
func (e existing) take(ctx context.Context, keyDir string, step func(rotation.Steps, *database.DB) error) error {
	return e.withPublished(ctx, "nobody would learn of a key", func(db *database.DB) (err error) {
		steps := rotation.Steps{Store: db, Now: time.Now}
		if keyDir != "" {
			if err := vetted.NoURI(keyDir); err != nil {
				return wrong("key-dir", err)
			}
			// The server has made it: one that is not there has no key of the ring.
			if _, err := os.Stat(keyDir); err != nil {
				return wrong("key-dir", fmt.Errorf("%w: name the server's own folder", err))
			}
			if steps.Folder, err = signkey.OpenFolder(keyDir); err != nil {
				return wrong("key-dir", err)
			}
		}
		err = step(steps, db)
		if errors.Is(err, rotation.ErrUnknown) {
			return errors.New("there is no signing key of this id: see \"keys list\"")
		}
		return err
	})
}

// loadKey loads a private key, from a file or by the URI of one in a PKCS#11 token. A
// public one in a file is refused as what it is: others may well read that.
func (c Config) loadKey(setting, where string) (*signkey.Key, error) {
	uri := strings.Trim(where, " \t\r\n'\"")
	if scheme, _, ok := strings.Cut(uri, ":"); ok && strings.EqualFold(scheme, "pkcs11") {
		if c.PKCS11 == nil {
			return nil, wrong(setting, errors.New("is a key in a PKCS#11 token, which this build of the program cannot reach: take the one that \"make pkcs11\" builds"))
		}
		key, err := c.PKCS11(uri)
		if err != nil {
			return nil, wrong(setting, err)
		}
		return key, nil
	}
	key, err := signkey.Load(where)
	if err == nil {
		return key, nil
	}
	if _, notPublic := keyset.Load(where); notPublic == nil {
		err = fmt.Errorf("%s: these are public keys, which verify: a private key, as \"handoff keygen\" makes it, is needed", where)
	}
	return nil, wrong(setting, err)
}

// run writes the public half of a key as a key set.
func (c *publicCommand) run(_ context.Context, std console) error {
	key, err := std.build.loadKey("key", c.Key)
	if err != nil {
		return err
	}
	set, err := keyset.New(key.Key())
	if err != nil {
		return wrong("key", err)
	}
	text, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.stdout, "%s\n", text)
	return err
}
