package servingtest

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

const patience = time.Minute // of a busy machine

// started fails the test where a server did not start. Where none is installed it
// skips the test, unless nothing may be skipped.
func started(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" && os.Getenv("HANDOFF_CI") == "":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// ended is for a cleanup: the test fails where a server did not end.
func ended(t testing.TB, stop func() error) {
	t.Helper()
	if err := stop(); err != nil {
		t.Error(err)
	}
}
