package redisreplay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// report is what a server says about itself, as far as it matters here.
type report struct {
	version  string
	run      string // changes when the server's process does
	role     string
	cluster  bool
	loading  bool   // it reads its files; until then it shows appendonly as no
	policy   string // maxmemory-policy
	aof      bool   // appendonly
	aofError bool
	replicas int
	promoted bool // it was a replica before
	evicted  int64
	fsync    string // appendfsync; empty where CONFIG is forbidden
	lazy     bool   // no-appendfsync-on-rewrite
	time     time.Time
}

// ErrPassword means that the Redis asks for a password, and Config.URL has none.
var ErrPassword = errors.New("the Redis asks for a password")

var errLoading = errors.New("the Redis still reads its files")

// inspect asks the server at the other end of a connection.
func inspect(ctx context.Context, client rueidis.Client) (r report, err error) {
	b := client.B()
	results := client.DoMulti(ctx, b.Info().Build(), b.ConfigGet().Parameter("*appendfsync*").Build(), b.Time().Build())
	info, err := results[0].ToString()
	if answer, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(answer.Error(), "NOAUTH ") {
		return r, ErrPassword
	}
	if err != nil {
		return r, fmt.Errorf("asking INFO: %w", err)
	}
	r.readInfo(info)
	if r.loading {
		return r, errLoading
	}
	config, err := results[1].AsStrMap()
	if _, forbidden := rueidis.IsRedisErr(err); err != nil && !forbidden {
		return r, fmt.Errorf("asking CONFIG: %w", err)
	}
	r.fsync, r.lazy = config["appendfsync"], config["no-appendfsync-on-rewrite"] == "yes"
	now, err := results[2].AsIntSlice()
	if err == nil && len(now) != 2 {
		err = errDoubt
	}
	if err != nil {
		return r, fmt.Errorf("asking TIME: %w", err)
	}
	r.time = time.Unix(now[0], now[1]*1000)
	return r, nil
}

// readInfo reads the lines of INFO, "name:value".
func (r *report) readInfo(info string) {
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "redis_version":
			r.version = value
		case "run_id":
			r.run = value
		case "role":
			r.role = value
		case "cluster_enabled":
			r.cluster = value != "0"
		case "loading":
			r.loading = value != "0"
		case "maxmemory_policy":
			r.policy = value
		case "aof_enabled":
			r.aof = value == "1"
		case "aof_last_write_status":
			r.aofError = value != "ok"
		case "connected_slaves":
			r.replicas, _ = strconv.Atoi(value)
		case "second_repl_offset":
			r.promoted = value != "-1"
		case "evicted_keys":
			r.evicted, _ = strconv.ParseInt(value, 10, 64)
		}
	}
}

// oldest is the oldest Redis that is accepted: 6.2, the first whose AOF and
// replication this package was written for.
var oldest = [2]int{6, 2}

// loses returns by which settings the server can have lost marks.
func (r *report) loses(c *Config) (problems []error) {
	if r.policy != "noeviction" {
		problems = append(problems, fmt.Errorf("maxmemory-policy is %q, which evicts marks: set it to noeviction", r.policy))
	}
	if !r.aof {
		problems = append(problems, errors.New("appendonly is no, so a restart forgets marks: set it to yes"))
	}
	if err := r.losesLast(c); err != nil {
		problems = append(problems, err)
	}
	return problems
}

// losesLast returns whether a crash of the machine forgets what came last.
func (r *report) losesLast(c *Config) error {
	fsync := cmp.Or(r.fsync, c.AppendFsync)
	switch {
	case fsync == "":
		return refused("AppendFsync", "must say what appendfsync is at the Redis, which forbids CONFIG GET; or allow that")
	case c.AppendFsync != "" && c.AppendFsync != fsync:
		return refused("AppendFsync", "is %q, and appendfsync at the Redis is %q", c.AppendFsync, fsync)
	case fsync == "always" && !r.lazy:
		return nil
	case fsync != "always" && fsync != "everysec":
		return fmt.Errorf("appendfsync is %q: set it to always", fsync)
	case c.AcceptLastSecondLoss:
		return nil
	case fsync == "everysec":
		return refused("AcceptLastSecondLoss", "is not set, and appendfsync at the Redis is everysec, so a crash of the machine forgets a second: set one of them, that to always")
	}
	return refused("AcceptLastSecondLoss", "is not set, and no-appendfsync-on-rewrite at the Redis is yes: set one of them, that to no")
}

// unfit returns why the server cannot take redemptions, though it keeps those
// that it has.
func (r *report) unfit(c *Config, now time.Time) (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if apart := r.time.Sub(now).Abs(); apart > c.Skew {
		problem("the Redis's clock is %s from this machine's: keep both right to %s, the skew", apart.Round(time.Millisecond), c.Skew)
	}
	if !r.recent() {
		problem("redis_version is %q: %d.%d or later is needed", r.version, oldest[0], oldest[1])
	}
	if r.run == "" {
		problem("INFO shows no run_id: let the user read all of INFO")
	}
	if r.role != "master" {
		problems = append(problems, refused("URL", "must name the primary: the role of this server is %q", r.role))
	}
	if r.cluster {
		problem("cluster-enabled is yes: use a Redis that is no cluster")
	}
	if r.aofError {
		problem("aof_last_write_status is not ok: the append-only file cannot be written")
	}
	switch most := (r.replicas + 1) / 2; {
	case c.WaitReplicas < most:
		problems = append(problems, refused("WaitReplicas", "must be %d or more: the server has %d replicas, and a failover forgets what they lack", most, r.replicas))
	case r.replicas < c.WaitReplicas:
		problems = append(problems, refused("WaitReplicas", "is %d, and the server has %d replicas", c.WaitReplicas, r.replicas))
	}
	return problems
}

func (r *report) recent() bool {
	major, rest, _ := strings.Cut(r.version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	x, err := strconv.Atoi(major)
	y, err2 := strconv.Atoi(minor)
	return err == nil && err2 == nil && (x > oldest[0] || x == oldest[0] && y >= oldest[1])
}
