package serving

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// adminOf returns where the operator's port is.
func (r *running) adminOf(t *testing.T) string {
	t.Helper()
	_, rest, _ := strings.Cut(r.waitLog(t, `"msg":"metrics"`), `"msg":"metrics","address":"`)
	address, _, _ := strings.Cut(rest, `"`)
	return address
}

func get(client *http.Client, url string) (code int, text string, err error) {
	response, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// The two answers for probes: one says that the process answers, the other what health
// says.
func TestProbesOverHTTP(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	r := run(t, &service{}, func(c *Config) {
		c.Metrics = "127.0.0.1:0"
		c.Ready = []Readiness{{Name: "store", Check: func(context.Context) error {
			if broken.Load() {
				return errors.New("s3cret cause")
			}
			return nil
		}}}
	})
	base := "http://" + r.adminOf(t)
	for _, breaks := range []bool{false, true, false} {
		broken.Store(breaks)
		want := http.StatusOK
		if breaks {
			want = http.StatusServiceUnavailable
		}
		var code int
		var text string
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && code != want; time.Sleep(10 * time.Millisecond) {
			code, text, _ = get(http.DefaultClient, base+"/readyz")
		}
		if code != want || strings.Contains(text, "s3cret") {
			t.Errorf("broken is %v: /readyz says %d %q", breaks, code, text)
		}
		if code, _, err := get(http.DefaultClient, base+"/healthz"); code != http.StatusOK {
			t.Errorf("/healthz: %d, %v", code, err)
		}
		held := map[bool]string{true: "0", false: "1"}[breaks]
		if line := `handoff_ready{condition="store"} ` + held; !strings.Contains(r.scrape(t), line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/debug/vars"} {
		if code, _, err := get(http.DefaultClient, base+path); code != http.StatusNotFound {
			t.Errorf("%s: %d, %v", path, code, err)
		}
	}
}

// With an authority for its clients the operator's port may be anywhere: it answers those
// whom the authority vouches for, as the file has it now, and nobody else.
func TestAdminOverTLS(t *testing.T) {
	t.Parallel()
	ours, others := servingtest.NewAuthority(t), servingtest.NewAuthority(t)
	file := filepath.Join(t.TempDir(), "clients.pem")
	copyFile(t, ours.File, file)
	r := run(t, &service{}, func(c *Config) { c.Metrics, c.MetricsClientCA = "0.0.0.0:0", file })
	_, port, _ := strings.Cut(strings.ReplaceAll(r.adminOf(t), "[::]", ""), ":")
	address := "127.0.0.1:" + port[strings.LastIndex(port, ":")+1:]
	client := func(certificates ...tls.Certificate) *http.Client {
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			RootCAs: r.pool, Certificates: certificates, MinVersion: tls.VersionTLS13, ClientSessionCache: tls.NewLRUClientSessionCache(4),
		}}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	good := client(ours.Issue(t, filepath.Join(t.TempDir(), "ours"), "prometheus"))
	bad := client(others.Issue(t, filepath.Join(t.TempDir(), "others"), "prometheus"))
	wantAnswer := func(what string, client *http.Client, answered bool) {
		t.Helper()
		code, text, err := get(client, "https://"+address+"/metrics")
		if is := err == nil && code == http.StatusOK && strings.Contains(text, "handoff_build_info"); is != answered {
			t.Errorf("%s: %d, %v", what, code, err)
		}
	}
	wantAnswer("a client of our authority", good, true)
	wantAnswer("a client of another", bad, false)
	wantAnswer("a client without a certificate", client(), false)
	if code, _, err := get(http.DefaultClient, "http://"+address+"/metrics"); err == nil && code == http.StatusOK {
		t.Error("plain HTTP is answered")
	}
	copyFile(t, others.File, file)
	r.Server.admin.clients.Look() // as a second later
	wantAnswer("a client of the former authority", good, false)
	wantAnswer("a client of the new one", bad, true)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, text)
}
