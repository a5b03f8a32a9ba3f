package measure

import "testing"

func TestOf(t *testing.T) {
	for _, c := range []struct {
		ci, long string
		want     int
		skipped  bool
	}{
		{"", "", 1, true}, {"1", "", 2, false}, {"", "1", 3, false}, {"1", "1", 3, false},
	} {
		t.Setenv("HANDOFF_CI", c.ci)
		t.Setenv("HANDOFF_LONG", c.long)
		if got := Of(1, 2, 3); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
		skipped := true
		t.Run("in CI", func(t *testing.T) {
			defer func() { skipped = t.Skipped() }()
			InCI(t)
		})
		if skipped != c.skipped {
			t.Errorf("%+v: skipped: %v", c, skipped)
		}
	}
}
