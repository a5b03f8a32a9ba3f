package serving

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

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
	broken.Store(false)
	servingtest.Eventually(t, "the probe hears that it is ready again", func() bool { return ready.Ask(t.Context()) == nil })
	ready.TLSCert = another + ".crt"
	if ready.Ask(t.Context()) == nil {
		t.Error("a server with another certificate counts")
	}
	for _, wrong := range []Probe{{Listen: "x", TLSCert: file}, {Listen: ":0", TLSCert: file}, {Listen: ":" + port, TLSCert: file + ".missing"}} {
		var setting *SettingError
		if err := wrong.Ask(t.Context()); !errors.As(err, &setting) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

// I12: a renewal that the server does not use has nobody end it: it is asked whether it
// lives without a look at the files that it has loaded already.
func TestI12ProbeLiveAfterABadRenewal(t *testing.T) {
	t.Parallel()
	var file string
	r := run(t, &service{}, func(c *Config) { file = c.TLSCert })
	another := filepath.Join(t.TempDir(), "another")
	servingtest.NewAuthority(t).Issue(t, another, "127.0.0.1")
	renewed, err := os.ReadFile(another + ".crt") // with the old key
	if err != nil {
		t.Fatal(err)
	}
	live := Probe{Listen: r.address, TLSCert: file, Live: true}
	for what, replace := range map[string]func() error{
		"another's certificate": func() error { return os.WriteFile(file, renewed, 0o600) },
		"no certificate":        func() error { return os.WriteFile(file, []byte("x"), 0o600) },
		"one that others write": func() error { return os.Chmod(file, 0o666) },
		"nothing":               func() error { return os.RemoveAll(file) },
	} {
		if err := replace(); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := live.Ask(t.Context()); err != nil {
			t.Errorf("the file has %s: %v", what, err)
		}
	}
}

// What answers is alive, even if only by closing a connection that is one too many; what
// is silent, or speaks no TLS, is not.
func TestProbeLive(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(net.Conn)
		alive  bool
	}{
		"a close": {func(c net.Conn) { c.Close() }, true},
		"plain":   {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, false},
		"silence": {func(net.Conn) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				if conn, err := listener.Accept(); err == nil {
					defer conn.Close()
					c.answer(conn)
					<-t.Context().Done()
				}
			}()
			ctx := t.Context()
			if name == "silence" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			if err := (Probe{Listen: listener.Addr().String(), Live: true}).Ask(ctx); (err == nil) != c.alive {
				t.Error(err)
			}
		})
	}
	if (Probe{Listen: "127.0.0.1:1", Live: true}).Ask(t.Context()) == nil {
		t.Error("where nobody listens somebody is alive")
	}
}
