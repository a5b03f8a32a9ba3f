package issuing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os/exec"
	"sync"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
)

// Audit measures IssueHandoff with a long audit, beside a SERVER1 whose audit is new, on
// both databases.
func Audit(ctx context.Context, s measure.Settings, t *measure.Table) (err error) {
	rounds, n, rows, users := 5, 4000, 10_000_000, 1000
	if s.Short {
		rounds, n, rows, users = 3, 500, 100_000, 20
	}
	var ways []*way // of each database the one with a new audit, and the one with a long one
	for _, postgres := range []bool{false, true} {
		for i := range 2 {
			shop, err := openShop(ctx, s, fmt.Sprintf("audit-%t-%d", postgres, i), shopOf{postgres: postgres, users: users})
			if errors.Is(err, exec.ErrNotFound) {
				t.Add(measure.Line{What: "PostgreSQL", Note: "is not installed here"})
				break
			}
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, shop.close()) }()
			ways = append(ways, &way{shop: shop, users: users})
		}
	}
	if err := lengthen(ctx, s, ways, rows); err != nil {
		return err
	}
	for round := range rounds {
		s.Say("audit: round %d of %d", round+1, rounds)
		for k := range ways {
			if err := ways[(k+round)%len(ways)].round(ctx, n); err != nil {
				return err
			}
		}
	}
	for i, w := range ways {
		what, base := "a new audit", ways[i-i%2]
		if w != base {
			what = measure.Grouped(float64(rows)) + " rows"
		}
		t.Add(measure.Line{
			What: fmt.Sprintf("IssueHandoff, %s, %s", w.shop.database, what), Median: measure.Grouped(measure.Median(w.rates, same)) + " /s",
			Ratio: ratios(w.rates, base.rates),
			Note:  fmt.Sprintf("processor time of SERVER1 %s; %d callers", measure.Microseconds(measure.Median(w.used, same)), callers),
		})
	}
	return nil
}

// lengthen adds rows to every second audit, to all at once.
func lengthen(ctx context.Context, s measure.Settings, ways []*way, rows int) error {
	failures := make([]error, len(ways))
	var wait sync.WaitGroup
	for i := 1; i < len(ways); i += 2 {
		long := ways[i].shop
		wait.Go(func() {
			say := func(format string, args ...any) { s.Say("audit: %s, %s", long.database, fmt.Sprintf(format, args...)) }
			failures[i] = long.whileStopped(ctx, func(db *sql.DB) error { return audited(ctx, db, rows, say) })
		})
	}
	wait.Wait()
	return errors.Join(failures...)
}
