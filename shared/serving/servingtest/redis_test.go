package servingtest

import "testing"

func TestRedis(t *testing.T) {
	r := StartRedis(t, "--maxmemory", "64mb")
	if got := r.Do(t, "SET", "kept", "42"); got != "+OK" {
		t.Error(got)
	}
	r.Kill(t)
	if answer, err := r.Ask("PING"); err == nil {
		t.Error("it answers after kill -9:", answer)
	}
	r.Start(t)
	if got := r.Do(t, "STRLEN", "kept"); got != ":2" {
		t.Error("what was kept has the length", got)
	}
}
