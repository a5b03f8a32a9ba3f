package redisreplay

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// server is where the Redis is and how to sign in.
type server struct {
	option rueidis.ClientOption
}

// newServer reads Config.URL. Its errors quote nothing of it: it holds a password.
func newServer(c Config) (server, error) {
	errURL := refused("URL", "must be redis://host:port/db or rediss://host:port/db, with a user and a password before the host if it has them, and without query")
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return server{}, errURL
	}
	port := cmp.Or(u.Port(), "6379")
	db, err := strconv.Atoi("0" + strings.TrimPrefix(u.Path, "/"))
	if err != nil || len(u.Path) > 4 {
		return server{}, errURL
	}
	password, _ := u.User.Password()
	s := server{rueidis.ClientOption{
		InitAddress: []string{net.JoinHostPort(u.Hostname(), port)},
		Username:    u.User.Username(), Password: password, SelectDB: db,
		ClientName: "handoff", ClientSetInfo: rueidis.DisableClientSetInfo,
		// No goroutine of rueidis reads ahead or shares a connection: a reply that
		// nobody asked for would end the process there.
		DisableAutoPipelining: true, BlockingPoolSize: 1, ForceSingleClient: true,
		Dialer:           net.Dialer{Timeout: c.connectTimeout(), KeepAlive: -1},
		ConnWriteTimeout: c.connectTimeout(),
		DisableCache:     true, DisableRetry: true,
		ReadBufferEachConn: 32 << 10, WriteBufferEachConn: 32 << 10,
	}}
	switch u.Scheme {
	case "rediss":
		s.option.TLSConfig = &tls.Config{
			ServerName: u.Hostname(), RootCAs: c.RootCAs, Certificates: c.Certificates, MinVersion: tls.VersionTLS12,
		}
	case "redis":
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && !ip.IsLoopback() {
			return server{}, refused("URL", "is redis:// and not on a loopback address: use rediss://")
		}
	default:
		return server{}, errURL
	}
	return s, nil
}

// connection is one connection to a server. It is never replaced by another
// behind our back: once it breaks, all that follows fails.
type connection struct {
	client rueidis.Client
	dials  int // so far
}

var (
	errBroken = errors.New("the connection broke")
	errNoPipe = errors.New("no pipelining connection is wanted")
)

func (s server) dial() (*connection, error) {
	c := new(connection)
	option := s.option
	option.DialCtxFn = c.dial
	client, err := rueidis.NewClient(option)
	if client == nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	c.client = client
	return c, nil
}

// dial is called by the goroutine that uses the connection: first for a
// pipelining connection, which rueidis can do without, then for the one that it
// uses.
func (c *connection) dial(ctx context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
	switch c.dials++; {
	case c.dials == 1:
		return nil, errNoPipe
	case c.dials > 2:
		return nil, errBroken
	case config == nil:
		return d.DialContext(ctx, "tcp", address)
	}
	return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, "tcp", address)
}

func (c *connection) close() { c.client.Close() }
