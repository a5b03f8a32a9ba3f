package serving

import (
	"io"
	"log/slog"
	"math"
	"testing"
)

// I05: connections are held against the process's limit of open files.
func TestI05FitConnections(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	for _, c := range []struct {
		most  int
		limit uint64
		want  int // 0: the server does not start
	}{
		{4096, 1 << 20, 4096},
		{4096, math.MaxUint64, 4096},
		{4096, 256 + 2*4096, 4096},
		{4096, 255 + 2*4096, 4095},
		{4096, 1024, 384},
		{10, 1024, 10},
		{4096, 288, 16},
		{4096, 287, 0},
		{1, 287, 0},
		{4096, 0, 0},
	} {
		got, err := fitConnections(c.most, c.limit, log)
		if got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%d connections with %d files: %d, %v; want %d", c.most, c.limit, got, err, c.want)
		}
	}
}
