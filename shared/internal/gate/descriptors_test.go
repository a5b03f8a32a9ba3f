package gate

import (
	"math"
	"testing"
)

// I05: connections are held against the limit of open files, half of what it leaves for each of two.
func TestI05Fit(t *testing.T) {
	for _, c := range []struct {
		most  int
		limit uint64
		want  int // 0: an error
	}{
		{4096, 8448, 4096},
		{4096, 8447, 4095},
		{4096, 1024, 384},
		{10, 1024, 10},
		{1, 288, 1},
		{1, 287, 0},
		{1, 0, 0},
		{math.MaxInt, 8448, 4096},
		{4096, math.MaxUint64, 4096},
	} {
		if got, err := Fit(c.most, c.limit); got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%d connections with %d files: %d, %v; want %d", c.most, c.limit, got, err, c.want)
		}
	}
}
