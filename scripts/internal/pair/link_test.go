package pair

import (
	"bufio"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// echo is a server that says everything back, and then that it has heard all.
func echo(t *testing.T, network, address string) (at string) {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := io.Copy(conn, conn); err == nil {
					_, _ = io.WriteString(conn, "all\n")
				}
			}()
		}
	}()
	return listener.Addr().String()
}

func newLink(t *testing.T, target string) *Link {
	t.Helper()
	link, err := NewLink(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	return link
}

type caller struct {
	net.Conn
	lines *bufio.Reader
}

func call(t *testing.T, link *Link) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", link.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &caller{conn, bufio.NewReader(conn)}
}

// ask says something, and returns what is heard within a while.
func (c *caller) ask(line string, within time.Duration) (string, error) {
	if _, err := io.WriteString(c, line); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	return c.lines.ReadString('\n')
}

func (c *caller) want(t *testing.T, line string) {
	t.Helper()
	if got, err := c.ask(line, 5*time.Second); got != line || err != nil {
		t.Errorf("heard %q, %v; want %q", got, err, line)
	}
}

const aWhile = 50 * time.Millisecond

func TestLinkPasses(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "echo")} {
		t.Run(network, func(t *testing.T) {
			c := call(t, newLink(t, echo(t, network, address)))
			c.want(t, "one\n")
			c.want(t, "two\n")
			if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(c.lines)
			if string(rest) != "all\n" || err != nil {
				t.Errorf("the end is %q, %v", rest, err)
			}
		})
	}
}

// What is said while a link is stalled is heard when it passes again.
func TestLinkStalls(t *testing.T) {
	link := newLink(t, echo(t, "tcp", "127.0.0.1:0"))
	before := call(t, link)
	before.want(t, "one\n")
	link.Stall()
	after := call(t, link)
	for _, c := range []*caller{before, after} {
		if got, err := c.ask("two\n", aWhile); !isTimeout(err) {
			t.Errorf("heard %q, %v through a link that is stalled", got, err)
		}
	}
	link.Pass()
	before.want(t, "two\n")
	after.want(t, "two\n")
}

// A cut ends what there is, stalled or not, and what comes, until it passes.
func TestLinkIsCut(t *testing.T) {
	link := newLink(t, echo(t, "tcp", "127.0.0.1:0"))
	passing := call(t, link)
	passing.want(t, "one\n")
	link.Stall()
	held := call(t, link)
	if _, err := held.ask("two\n", aWhile); err == nil {
		t.Error("a link that is stalled passes")
	}
	link.Cut()
	for _, c := range []*caller{passing, held} {
		if got, err := c.ask("three\n", 5*time.Second); err == nil || errors.Is(err, io.EOF) || isTimeout(err) {
			t.Errorf("heard %q, %v through a link that was cut, want a reset", got, err)
		}
	}
	if conn, err := net.Dial("tcp", link.Address()); err == nil { // which a reset can end, too
		c := &caller{conn, bufio.NewReader(conn)}
		if got, err := c.ask("three\n", 5*time.Second); err == nil || errors.Is(err, io.EOF) || isTimeout(err) {
			t.Errorf("heard %q, %v from a link that was cut, want a reset", got, err)
		}
		conn.Close()
	}
	link.Pass()
	call(t, link).want(t, "four\n")
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestLinkCloses(t *testing.T) {
	link := newLink(t, echo(t, "tcp", "127.0.0.1:0"))
	held := call(t, link)
	link.Stall()
	link.Close()
	link.Close()
	link.Pass()
	if _, err := held.ask("one\n", 5*time.Second); err == nil || isTimeout(err) {
		t.Errorf("a link that is closed passes: %v", err)
	}
	if conn, err := net.Dial("tcp", link.Address()); err == nil {
		conn.Close()
		t.Error("a link that is closed still listens")
	}
}
