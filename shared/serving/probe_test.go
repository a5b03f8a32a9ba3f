package serving

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// The probe knows a server that serves, one that only answers, another one, and none.
func TestProbe(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	var file string
	r := run(t, &service{}, func(c *Config) {
		file, c.Listen = c.TLSCert, "0.0.0.0:0"
		c.Ready = []Readiness{{Name: "store", Check: func(context.Context) error {
			if broken.Load() {
				return errors.New("gone")
			}
			return nil
		}}}
	})
	_, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	ready := Probe{Listen: ":" + port, TLSCert: file}
	if err := ready.Ask(t.Context()); err != nil {
		t.Error("it serves:", err)
	}
	live := ready
	live.Live = true
	broken.Store(true)
	servingtest.Eventually(t, "the probe hears that it is not ready", func() bool { return ready.Ask(t.Context()) != nil })
	if err := live.Ask(t.Context()); err != nil {
		t.Error("it answers:", err)
	}
	another := filepath.Join(t.TempDir(), "another")
	servingtest.NewAuthority(t).Issue(t, another, "127.0.0.1")
	live.TLSCert = another + ".crt"
	if live.Ask(t.Context()) == nil {
		t.Error("a server with another certificate counts")
	}
	for _, wrong := range []Probe{{Listen: "x", TLSCert: file}, {Listen: ":0", TLSCert: file}, {Listen: ":" + port, TLSCert: file + ".missing"}} {
		var setting *SettingError
		if err := wrong.Ask(t.Context()); !errors.As(err, &setting) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}
