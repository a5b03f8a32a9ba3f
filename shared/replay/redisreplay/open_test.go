package redisreplay_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
)

// A Redis that is set up to lose marks is refused, and the refusal names what to
// change.
func TestOpenRefusesAnUnsafeRedis(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings []string
		config   redisreplay.Config
		names    string // empty: it is accepted
	}{
		"safe":                    {},
		"no append-only file":     {settings: []string{"--appendonly", "no"}, names: "appendonly"},
		"E05 eviction, LRU":       {settings: []string{"--maxmemory-policy", "allkeys-lru"}, names: "maxmemory-policy"},
		"E05 eviction, TTL":       {settings: []string{"--maxmemory-policy", "volatile-ttl"}, names: "maxmemory-policy"},
		"everysec":                {settings: []string{"--appendonly", "yes", "--appendfsync", "everysec"}, names: "appendfsync"},
		"everysec, accepted":      {settings: []string{"--appendonly", "yes", "--appendfsync", "everysec"}, config: redisreplay.Config{AcceptLastSecondLoss: true}},
		"no fsync":                {settings: []string{"--appendonly", "yes", "--appendfsync", "no"}, names: "appendfsync"},
		"no fsync, not accepted":  {settings: []string{"--appendonly", "yes", "--appendfsync", "no"}, config: redisreplay.Config{AcceptLastSecondLoss: true}, names: "appendfsync"},
		"no fsync on rewrite":     {settings: []string{"--no-appendfsync-on-rewrite", "yes"}, names: "no-appendfsync-on-rewrite"},
		"a replica":               {settings: []string{"--replicaof", "127.0.0.1 1"}, names: "role"},
		"a cluster":               {settings: []string{"--cluster-enabled", "yes"}, names: "cluster-enabled"},
		"too few replicas":        {config: redisreplay.Config{WaitReplicas: 1}, names: "WaitReplicas"},
		"stated as it is":         {config: redisreplay.Config{AppendFsync: "always"}},
		"stated as it is not":     {config: redisreplay.Config{AppendFsync: "everysec", AcceptLastSecondLoss: true}, names: "AppendFsync"},
		"no password":             {settings: []string{"--requirepass", "secret"}, names: "NOAUTH"},
		"everything at once is 1": {settings: []string{"--appendonly", "no", "--maxmemory-policy", "allkeys-random"}, names: "maxmemory-policy"},
		"everything at once is 2": {settings: []string{"--appendonly", "no", "--maxmemory-policy", "allkeys-random"}, names: "appendonly"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.config.URL = start(t, c.settings...).url()
			s, err := redisreplay.Open(t.Context(), c.config)
			if err == nil {
				s.Close()
			}
			if c.names == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if c.names != "" && (err == nil || !strings.Contains(err.Error(), c.names)) {
				t.Errorf("got %v, want a refusal that names %s", err, c.names)
			}
		})
	}
}

// Replicas that are not waited for are refused: a failover would forget.
func TestOpenRefusesReplicasWithoutWait(t *testing.T) {
	t.Parallel()
	primary := start(t)
	for range 3 {
		start(t, "--replicaof", "127.0.0.1 "+primary.port)
	}
	eventually(t, 20*time.Second, "the replicas are there", func() bool { return primary.info("connected_slaves") == "3" })
	for replicas, ok := range map[int]bool{0: false, 1: false, 2: true, 3: true, 4: false} {
		s, err := redisreplay.Open(t.Context(), redisreplay.Config{URL: primary.url(), WaitReplicas: replicas})
		if err == nil {
			s.Close()
		}
		if (err == nil) != ok {
			t.Errorf("3 replicas, WaitReplicas %d: %v, want accepted: %t", replicas, err, ok)
		}
	}
}

// Where CONFIG is forbidden, what INFO does not show must be stated.
func TestOpenWhereConfigIsForbidden(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.do("ACL", "SETUSER", "app", "on", ">secret", "~handoff:*", "+@all", "-config")
	url := "redis://app:secret@127.0.0.1:" + r.port + "/0"
	for stated, ok := range map[string]bool{"": false, "always": true, "everysec": false} {
		s, err := redisreplay.Open(t.Context(), redisreplay.Config{URL: url, AppendFsync: stated})
		if err == nil {
			s.Close()
		}
		if (err == nil) != ok {
			t.Errorf("stated %q: %v, want accepted: %t", stated, err, ok)
		}
	}
}

// The rights that REDIS.md names are enough.
func TestOpenWithFewRights(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../REDIS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rights, ok := strings.Cut(string(page), "ACL SETUSER handoff on >\u2026 ")
	if rights, _, _ = strings.Cut(rights, "\n"); !ok {
		t.Fatal("REDIS.md names no rights")
	}
	r := start(t).age()
	r.do(append([]string{"ACL", "SETUSER", "handoff", "on", ">secret"}, strings.Fields(rights)...)...)
	s := open(t, redisreplay.Config{URL: "redis://handoff:secret@127.0.0.1:" + r.port + "/0"})
	recovers(t, s, 5*time.Second)
}

func TestOpenRefusesAConfig(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config redisreplay.Config
		names  string
	}{
		"no URL":            {redisreplay.Config{}, "Config.URL"},
		"not a URL":         {redisreplay.Config{URL: "redis://u:hunter2@[::1"}, "Config.URL"},
		"another scheme":    {redisreplay.Config{URL: "http://u:hunter2@127.0.0.1"}, "Config.URL"},
		"no host":           {redisreplay.Config{URL: "redis:///0"}, "Config.URL"},
		"no number":         {redisreplay.Config{URL: "redis://u:hunter2@127.0.0.1/x"}, "Config.URL"},
		"a negative number": {redisreplay.Config{URL: "redis://u:hunter2@127.0.0.1/-1"}, "Config.URL"},
		"a query":           {redisreplay.Config{URL: "rediss://u:hunter2@127.0.0.1/?skip_verify=true"}, "Config.URL"},
		"no TLS, a name":    {redisreplay.Config{URL: "redis://u:hunter2@redis.example"}, "rediss://"},
		"no TLS, a network": {redisreplay.Config{URL: "redis://u:hunter2@10.0.0.1"}, "rediss://"},
		"no TLS, anywhere":  {redisreplay.Config{URL: "redis://u:hunter2@0.0.0.0"}, "rediss://"},
		"a skew":            {redisreplay.Config{URL: "redis://127.0.0.1", Skew: time.Hour}, "Config.Skew"},
		"a negative skew":   {redisreplay.Config{URL: "redis://127.0.0.1", Skew: -1}, "Config.Skew"},
		"a long timeout":    {redisreplay.Config{URL: "redis://127.0.0.1", Timeout: time.Minute}, "Config.Timeout"},
		"no timeout":        {redisreplay.Config{URL: "redis://127.0.0.1", Timeout: 1}, "Config.Timeout"},
		"replicas":          {redisreplay.Config{URL: "redis://127.0.0.1", WaitReplicas: -1}, "Config.WaitReplicas"},
		"fsync":             {redisreplay.Config{URL: "redis://127.0.0.1", AppendFsync: "no"}, "Config.AppendFsync"},
		"nobody there":      {redisreplay.Config{URL: "redis://u:hunter2@127.0.0.1:" + freePort(t)}, "connect"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := redisreplay.Open(t.Context(), c.config)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.names) {
				t.Errorf("got %v, want a refusal that names %s", err, c.names)
			} else if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error shows the password")
			}
		})
	}
}

// Over TLS, the server must be vouched for, by name; and both sides if it asks.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours, other := newAuthority(t), newAuthority(t)
	ours.issue(t, filepath.Join(dir, "server"), "127.0.0.1")
	other.issue(t, filepath.Join(dir, "other"), "127.0.0.1")
	port := freePort(t)
	r := start(t,
		"--tls-port", port, "--tls-cert-file", filepath.Join(dir, "server.crt"), "--tls-key-file", filepath.Join(dir, "server.key"),
		"--tls-ca-cert-file", ours.write(t, filepath.Join(dir, "ca.crt")), "--tls-auth-clients", "yes",
	).age()
	client := ours.issue(t, filepath.Join(dir, "client"), "replica")
	url := "rediss://127.0.0.1:" + port
	for name, c := range map[string]struct {
		config redisreplay.Config
		ok     bool
	}{
		"both known":                 {redisreplay.Config{URL: url, RootCAs: ours.pool, Certificates: []tls.Certificate{client}}, true},
		"no certificate":             {redisreplay.Config{URL: url, RootCAs: ours.pool}, false},
		"another's":                  {redisreplay.Config{URL: url, RootCAs: ours.pool, Certificates: []tls.Certificate{other.issue(t, filepath.Join(dir, "x"), "x")}}, false},
		"another authority":          {redisreplay.Config{URL: url, RootCAs: other.pool, Certificates: []tls.Certificate{client}}, false},
		"the system's":               {redisreplay.Config{URL: url, Certificates: []tls.Certificate{client}}, false},
		"another name":               {redisreplay.Config{URL: "rediss://localhost:" + port, RootCAs: ours.pool, Certificates: []tls.Certificate{client}}, false},
		"plain, at the TLS port":     {redisreplay.Config{URL: "redis://127.0.0.1:" + port}, false},
		"TLS, at the plain port":     {redisreplay.Config{URL: "rediss://127.0.0.1:" + r.port, RootCAs: ours.pool}, false},
		"no TLS, at a loopback port": {redisreplay.Config{URL: r.url()}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := redisreplay.Open(t.Context(), c.config)
			if (err == nil) != c.ok {
				t.Errorf("got %v, want accepted: %t", err, c.ok)
			}
			if err == nil {
				recovers(t, s, 5*time.Second)
				s.Close()
			}
		})
	}
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test authority " + rand.Text()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{certificate, key, x509.NewCertPool()}
	a.pool.AddCert(certificate)
	return a
}

// write writes the authority's certificate to a file.
func (a *authority) write(t *testing.T, path string) string {
	t.Helper()
	writePEM(t, path, "CERTIFICATE", a.certificate.Raw)
	return path
}

// issue makes a certificate for a name or address, in files and for use.
func (a *authority) issue(t *testing.T, path, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, path+".crt", "CERTIFICATE", der)
	writePEM(t, path+".key", "PRIVATE KEY", secret)
	pair, err := tls.LoadX509KeyPair(path+".crt", path+".key")
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
