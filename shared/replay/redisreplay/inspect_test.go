package redisreplay

import (
	"strings"
	"testing"
	"time"
)

// What INFO says, as far as it is read; each case changes one line of it.
const goodInfo = `# Server
redis_version:7.0.15
run_id:0123456789abcdef0123456789abcdef01234567
# Memory
maxmemory_policy:noeviction
# Persistence
aof_enabled:1
aof_last_write_status:ok
# Stats
evicted_keys:0
# Replication
role:master
connected_slaves:0
second_repl_offset:-1
# Cluster
cluster_enabled:0
`

func TestReportOfOtherServers(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		line  string // instead of the one that begins alike; empty: none
		names string // empty: it is accepted
	}{
		"as it should be":       {},
		"the oldest":            {"redis_version:6.2.0", ""},
		"too old":               {"redis_version:6.0.16", "redis_version"},
		"much too old":          {"redis_version:5.0.14", "redis_version"},
		"newer":                 {"redis_version:8.2.1", ""},
		"two digits":            {"redis_version:10.0.0", ""},
		"no version":            {"redis_version:", "redis_version"},
		"a version in words":    {"redis_version:latest", "redis_version"},
		"no run id":             {"run_id:", "run_id"},
		"no policy":             {"maxmemory_policy:", "maxmemory-policy"},
		"eviction":              {"maxmemory_policy:volatile-lfu", "maxmemory-policy"},
		"no append-only file":   {"aof_enabled:0", "appendonly"},
		"its disk is full":      {"aof_last_write_status:err", "aof_last_write_status"},
		"a replica":             {"role:slave", "role"},
		"no role":               {"role:", "role"},
		"a cluster":             {"cluster_enabled:1", "cluster-enabled"},
		"replicas":              {"connected_slaves:1", "WaitReplicas"},
		"promoted long ago":     {"second_repl_offset:1234", ""},
		"evicted, but long ago": {"evicted_keys:77", ""},
	} {
		t.Run(name, func(t *testing.T) {
			info := goodInfo
			if field, _, ok := strings.Cut(c.line, ":"); ok {
				before, rest, _ := strings.Cut(info, "\n"+field+":")
				_, after, _ := strings.Cut(rest, "\n")
				info = before + "\n" + c.line + "\n" + after
			}
			r := report{fsync: "always", time: now}
			r.readInfo(strings.ReplaceAll(info, "\n", "\r\n"))
			config, err := Config{}.complete()
			if err != nil {
				t.Fatal(err)
			}
			var said string
			for _, problem := range append(r.loses(&config), r.unfit(&config, now)...) {
				said += problem.Error()
			}
			if c.names == "" && said != "" || !strings.Contains(said, c.names) {
				t.Errorf("got %q, want it to name %q", said, c.names)
			}
		})
	}
}
