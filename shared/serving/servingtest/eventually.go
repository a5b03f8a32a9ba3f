package servingtest

import (
	"testing"
	"time"
)

// Eventually waits until something holds, for half a minute at most.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%s: not within half a minute", what)
		}
	}
}
