package redisreplay_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
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
		"E03 no append-only file": {settings: []string{"--appendonly", "no"}, names: "appendonly"},
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
		"no password":             {settings: []string{"--requirepass", "secret"}, names: "asks for a password"},
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
	servingtest.Eventually(t, "the replicas are there", func() bool { return primary.info("connected_slaves") == "3" })
	for replicas, ok := range map[int]bool{0: false, 1: false, 2: true, 3: true, 4: false} {
		s, err := redisreplay.Open(t.Context(), redisreplay.Config{URL: primary.url(), WaitReplicas: replicas})
		if err == nil {
			s.Close()
		}
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "Config.WaitReplicas") {
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
		if (err == nil) != ok || stated == "" && !strings.Contains(err.Error(), "Config.AppendFsync") {
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
	recovers(t, s)
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
		"nobody there":      {redisreplay.Config{URL: "redis://u:hunter2@127.0.0.1:" + servingtest.HoldPort(t).Number()}, "connect"},
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
	ours, other := servingtest.NewAuthority(t), servingtest.NewAuthority(t)
	ours.Issue(t, filepath.Join(dir, "server"), "127.0.0.1")
	port := servingtest.HoldPort(t).Number()
	r := start(t,
		"--tls-port", port, "--tls-cert-file", filepath.Join(dir, "server.crt"), "--tls-key-file", filepath.Join(dir, "server.key"),
		"--tls-ca-cert-file", ours.File, "--tls-auth-clients", "yes",
	).age()
	client := ours.Issue(t, filepath.Join(dir, "client"), "replica")
	url := "rediss://127.0.0.1:" + port
	for name, c := range map[string]struct {
		config redisreplay.Config
		ok     bool
	}{
		"both known":                 {redisreplay.Config{URL: url, RootCAs: ours.Pool, Certificates: []tls.Certificate{client}}, true},
		"no certificate":             {redisreplay.Config{URL: url, RootCAs: ours.Pool}, false},
		"another's":                  {redisreplay.Config{URL: url, RootCAs: ours.Pool, Certificates: []tls.Certificate{other.Issue(t, filepath.Join(dir, "x"), "x")}}, false},
		"another authority":          {redisreplay.Config{URL: url, RootCAs: other.Pool, Certificates: []tls.Certificate{client}}, false},
		"the system's":               {redisreplay.Config{URL: url, Certificates: []tls.Certificate{client}}, false},
		"another name":               {redisreplay.Config{URL: "rediss://localhost:" + port, RootCAs: ours.Pool, Certificates: []tls.Certificate{client}}, false},
		"plain, at the TLS port":     {redisreplay.Config{URL: "redis://127.0.0.1:" + port}, false},
		"TLS, at the plain port":     {redisreplay.Config{URL: "rediss://127.0.0.1:" + r.port, RootCAs: ours.Pool}, false},
		"no TLS, at a loopback port": {redisreplay.Config{URL: r.url()}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := redisreplay.Open(t.Context(), c.config)
			if (err == nil) != c.ok {
				t.Errorf("got %v, want accepted: %t", err, c.ok)
			}
			if err == nil {
				recovers(t, s)
				s.Close()
			}
		})
	}
}
