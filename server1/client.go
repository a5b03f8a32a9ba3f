package server1

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/client"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// run adds a client.
func (c *addClientCommand) run(ctx context.Context, std console) (err error) {
	if err := cmp.Or(checkNames("name", c.Name), checkNames("role", c.Role...)); err != nil {
		return err
	}
	now := time.Now()
	keys, err := client.Keys(c.Key, now)
	if err != nil {
		return wrong("key", err)
	}
	db, err := database.Open(ctx, c.Database)
	if err != nil {
		return wrong("database", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	roles := slices.Compact(slices.Sorted(slices.Values(c.Role)))
	added := database.Client{User: database.User{ID: handoff.NewID(), Name: c.Name, Roles: roles, Created: now}, Keys: keys}
	err = db.AddClient(ctx, added)
	if errors.Is(err, database.ErrNameTaken) {
		return fmt.Errorf("a client or a user %q exists", c.Name)
	}
	return std.done(keyError(err), "added %s: id %s, roles %s, key %s\n", added.Name, added.ID, rolesOf(added.User), idsOf(keys))
}

// keyError says what is wrong with a key that the database does not take.
func keyError(err error) error {
	switch {
	case errors.Is(err, database.ErrKeyTaken):
		return wrong("key", errors.New("is another client's, or signs handoffs: a key has one owner and one use"))
	case errors.Is(err, database.ErrTooMany):
		return wrong("key", fmt.Errorf("is one too many: a client has %d at most, while they change", database.MaxClientKeys))
	}
	return err
}

func idsOf(keys []database.ClientKey) string {
	var ids []string
	for _, key := range keys {
		ids = append(ids, key.ID)
	}
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, ",")
}

// run lists the clients, by name.
func (c *listClientsCommand) run(ctx context.Context, std console) error {
	return c.with(ctx, func(db *database.DB) error {
		clients, err := db.Clients(ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(std.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "NAME\tID\tROLES\tADDED\tSTATE\tKEYS")
		for _, client := range clients {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", client.Name, client.ID, rolesOf(client.User),
				client.Created.Format(time.DateOnly), stateOf(client.User), idsOf(client.Keys))
		}
		return table.Flush()
	})
}

// run disables a client. A running server notices at once, and its audiences within a
// moment.
func (c *disableClientCommand) run(ctx context.Context, std console) error {
	return c.change(ctx, "client", c.Name, func(db *database.DB) error {
		err := std.done(db.DisableClient(ctx, c.Name, time.Now()), "disabled %s: it is refused, and its handoffs are taken back\n", c.Name)
		return unpublished(ctx, std, db, err)
	})
}

// run enables a client.
func (c *enableClientCommand) run(ctx context.Context, std console) error {
	return c.change(ctx, "client", c.Name, func(db *database.DB) error {
		return std.done(db.EnableClient(ctx, c.Name, time.Now()), "enabled %s\n", c.Name)
	})
}

// run gives a client a key.
func (c *addClientKeyCommand) run(ctx context.Context, std console) error {
	keys, err := client.Keys(c.Key, time.Now())
	if err != nil {
		return wrong("key", err)
	}
	if len(keys) != 1 {
		return wrong("key", errors.New("has more than one key"))
	}
	return c.change(ctx, "client", c.Name, func(db *database.DB) error {
		return std.done(keyError(db.AddClientKey(ctx, c.Name, keys[0])), "added key %s to %s\n", keys[0].ID, c.Name)
	})
}

// run takes a key from a client.
func (c *removeClientKeyCommand) run(ctx context.Context, std console) error {
	return c.change(ctx, "client", c.Name, func(db *database.DB) error {
		err := db.RemoveClientKey(ctx, c.Name, c.Kid, time.Now())
		if errors.Is(err, database.ErrNotFound) {
			return fmt.Errorf("there is no client %q with the key %q", c.Name, c.Kid)
		}
		err = std.done(err, "removed key %s from %s: its handoffs are taken back\n", c.Kid, c.Name)
		return unpublished(ctx, std, db, err)
	})
}

// reserved returns the ids of the keys that this server signs with: no client may have
// one.
func (p *parts) reserved() (kids []string) {
	if p.signs.one != nil {
		kids = append(kids, p.signs.one.Key().ID())
	}
	if p.trustKey != nil {
		kids = append(kids, p.trustKey.Key().ID())
	}
	return kids
}

// checkClients refuses keys of this server that are a client's.
func (c *serveCommand) checkClients(ctx context.Context, p *parts) error {
	clients, err := p.db.Clients(ctx)
	if err != nil {
		return wrong("database", err)
	}
	for _, client := range clients {
		for _, key := range client.Keys {
			setting := "key"
			if p.trustKey != nil && p.trustKey.Key().ID() == key.ID {
				setting = "trust-key"
			}
			if slices.Contains(p.reserved(), key.ID) {
				return wrong(setting, fmt.Errorf("is the key of the client %q: give one of them another", client.Name))
			}
		}
	}
	return nil
}
