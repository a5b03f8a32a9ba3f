package replay

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// A mark never lies in the table of another period: not one that is read back
// while the clock is hours behind it, nor one that has ended by the time which
// another segment told, nor one that the clock cannot explain.
func TestF01MarksFindTheirPeriod(t *testing.T) {
	long := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	newMarks := func() *marks { return newMarks(Config{}.complete()) }

	t.Run("read back with the clock behind", func(t *testing.T) {
		var clock atomic.Int64
		c := Config{Now: func() time.Time { return time.Unix(clock.Load(), 0) }}
		for _, ahead := range []time.Duration{9 * time.Minute, time.Hour, 10 * time.Hour} {
			clock.Store(long.Unix())
			path := filepath.Join(t.TempDir(), "journal")
			if err := Create(path, c); err != nil {
				t.Fatal(err)
			}
			r := handoff.Redemption{Issuer: "https://shop.example", ID: "1", IssuedAt: long.Add(ahead), Expires: long.Add(ahead + time.Minute)}
			writeRecord(t, path, long, mark{newKey(r.Issuer, r.ID), r.Expires.Unix()})
			s, err := Open(path, c)
			if err != nil {
				t.Fatal(err)
			}
			for clock.Store(r.IssuedAt.Unix()); clock.Load() < r.Expires.Unix(); clock.Add(13) {
				if err := s.Redeem(t.Context(), r); !errors.Is(err, handoff.ErrReplayed) {
					t.Fatalf("%s: got %v, want ErrReplayed", ahead, err)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("ended", func(t *testing.T) {
		m := newMarks()
		s := &m.shards[0]
		m.forget(s, periodOf(long.Add(time.Minute)))
		m.loadShard(s, long.UnixMilli(), []mark{{key{1}, long.Add(time.Second).Unix()}})
		if s.filled != 0 || m.live.Load() != 0 {
			t.Errorf("tables %b, %d live, want none", s.filled, m.live.Load())
		}
	})
	t.Run("too far ahead", func(t *testing.T) {
		m := newMarks()
		current := periodOf(long)
		for ahead, want := range map[int64]error{-1: errTimePassed, 0: nil, int64(periods) - 1: nil, int64(periods): errTooFar} {
			if err := m.add(&key{1, byte(ahead)}, current, current+ahead); !errors.Is(err, want) {
				t.Errorf("%d periods ahead: got %v, want %v", ahead, err, want)
			}
		}
	})
}

// writeRecord adds a segment with one record to a journal that has just been made.
func writeRecord(t *testing.T, path string, clock time.Time, m mark) {
	t.Helper()
	dir, err := openFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	s, err := createSegment(dir, header{boot: currentBoot(), sequence: 2, oldest: 1, former: headerSize, clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.write([]mark{m}), s.file.Close()); err != nil {
		t.Fatal(err)
	}
}
