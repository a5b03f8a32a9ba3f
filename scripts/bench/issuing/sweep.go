package issuing

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
)

// Sweep measures how long a SERVER1 takes to remove sessions that are over, and how long
// handoffs wait meanwhile.
func Sweep(ctx context.Context, s measure.Settings, t *measure.Table) error {
	for _, postgres := range []bool{false, true} {
		err := sweepOn(ctx, s, t, postgres)
		if errors.Is(err, exec.ErrNotFound) {
			t.Add(measure.Line{What: "PostgreSQL", Note: "is not installed here"})
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	sweepRate = 200             // handoffs a second meanwhile
	sweepMost = 3 * time.Minute // what then is still there is reckoned by the pace until then
)

func sweepOn(ctx context.Context, s measure.Settings, t *measure.Table, postgres bool) (err error) {
	sessions, users := 1_000_000, 1000
	if s.Short {
		sessions, users = 20_000, 20
	}
	shop, err := openShop(ctx, s, fmt.Sprintf("sweep-%t", postgres), shopOf{postgres, users, []string{"--metrics", "127.0.0.1:0"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.close()) }()
	what := fmt.Sprintf("%s expired sessions, %s", measure.Grouped(float64(sessions)), shop.database)
	s.Say("sweep: %s", what)
	if err := shop.whileStopped(ctx, func(db *sql.DB) error { return expired(ctx, db, sessions) }); err != nil {
		return err
	}
	start := time.Now()
	var waits []time.Duration
	gone := 0.0
	for gone < float64(sessions) && time.Since(start) < sweepMost {
		took, err := measure.Arriving(ctx, sweepRate, sweepRate, shop.issue(users))
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		waits = append(waits, took...)
		if gone, err = shop.metric(`handoff_swept_rows_total{table="sessions"}`); err != nil {
			return err
		}
	}
	spent := time.Since(start)
	after, err := measure.Arriving(ctx, 5*sweepRate, sweepRate, shop.issue(users))
	if err != nil {
		return err
	}
	ns := func(d time.Duration) float64 { return float64(d) }
	t.Add(measure.Line{
		What: what + ": gone after", Median: spent.Round(time.Second).String(),
		Note: fmt.Sprintf("%s of them; the run waits for %s at most", measure.Grouped(gone), sweepMost),
	})
	t.Add(measure.Line{
		What: what + ": the longest wait of a handoff", Median: slices.Max(waits).Round(time.Millisecond).String(),
		Note: fmt.Sprintf("%d a second; p99.9 %s, and afterwards %s, p50 %s and %s", sweepRate,
			measure.Microseconds(measure.Quantile(waits, 0.999, ns)), measure.Microseconds(measure.Quantile(after, 0.999, ns)),
			measure.Microseconds(measure.Median(waits, ns)), measure.Microseconds(measure.Median(after, ns))),
	})
	t.Most(what+", gone after", spent.Seconds()*float64(sessions)/max(gone, 1), 120, " s")
	t.Most(what+", the longest wait of a handoff", slices.Max(waits).Seconds()*1000, 250, " ms")
	return nil
}

// metric returns what one of SERVER1's metrics shows.
func (s *shop) metric(name string) (value float64, err error) {
	log, err := os.ReadFile(s.Server1.Log)
	if err != nil {
		return 0, err
	}
	address := ""
	for line := range strings.Lines(string(log)) {
		var entry struct{ Msg, Address string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "metrics" {
			address = entry.Address // the last, as the server was started again
		}
	}
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, nil // nothing has been counted yet
}
