package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/server2/internal/ledger"
)

// I04: what has expired is removed batch by batch, not before any token from before the
// start is over; what fails is told once, and tried again.
func TestI04Sweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var mu sync.Mutex
		start, calls, rows, fault := time.Now(), 0, int64(2*ledger.SweepBatch+1), error(nil)
		sweep := func(_ context.Context, expired time.Time) (int64, error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			if now := time.Now(); now.Before(start.Add(sweepEvery)) || expired.After(now.Add(-kept)) {
				t.Errorf("%s after the start, all that expired by %s goes", now.Sub(start), expired)
			}
			gone := min(rows, ledger.SweepBatch)
			rows -= gone
			return gone, fault
		}
		end := sweeper{sweep: sweep, log: slog.New(slog.NewTextHandler(&log, nil))}.begin(t.Context())
		time.Sleep(sweepEvery + time.Second)
		synctest.Wait()
		if rows != 0 || calls != 3 {
			t.Errorf("%d rows are left after %d calls", rows, calls)
		}
		fail := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			fault = err
		}
		fail(errors.New("out of order"))
		time.Sleep(3 * sweepEvery)
		synctest.Wait()
		if n := strings.Count(log.String(), "out of order"); n != 1 || calls != 6 {
			t.Errorf("told %d times after %d calls: %s", n, calls, &log)
		}
		fail(nil)
		time.Sleep(sweepEvery)
		end()
		time.Sleep(2 * sweepEvery)
		if calls != 7 {
			t.Errorf("%d calls", calls)
		}
	})
}
