package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
)

// A Child is a server in a process of its own, so that what it costs can be told
// from what its caller costs. It is this program, started as `bench serve`: it
// reads its order from standard input, then does what each line says and answers
// with its usage, and stops at the end.
type Child struct {
	command *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
	hello   hello
	pool    []*grpc.ClientConn
}

// order says what a child is to serve.
type order struct {
	Variant Variant
	Keys    json.RawMessage // SERVER1's public keys, as a JWK Set
	Dir     string
	Entries int    // of a publisher's trust list
	Profile string // where it leaves a profile of its processor time; empty: nowhere
}

// hello is how a child can be reached.
type hello struct {
	Address     string
	Certificate []byte // DER
	Error       string
}

// startChild starts a server on the processors that cores names; all, if none.
func startChild(ctx context.Context, o order, cores ...int) (*Child, error) {
	command, err := measure.OwnCommand(ctx, "serve")
	if err != nil {
		return nil, err
	}
	c := &Child{command: command}
	if c.orders, err = c.command.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := c.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.answers = bufio.NewReader(output)
	if err := measure.StartOn(c.command, cores); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(c.orders).Encode(o); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	if err := c.read(&c.hello); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	if c.hello.Error != "" {
		return nil, errors.Join(errors.New(c.hello.Error), c.Stop())
	}
	return c, nil
}

func (c *Child) read(answer any) error {
	text, err := c.answers.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	return json.Unmarshal(text, answer)
}

// told is a child's answer to a line.
type told struct {
	measure.Usage        // since its start
	Moved         int64  // bytes, of a publisher's connections
	Error         string // why it could not do what the line said
}

// usage asks the child what it has used since its start.
func (c *Child) usage() (measure.Usage, error) {
	t, err := c.ask("usage")
	return t.Usage, err
}

// ask has the child do something.
func (c *Child) ask(line string) (t told, err error) {
	if _, err := io.WriteString(c.orders, line+"\n"); err != nil {
		return t, err
	}
	err = c.read(&t)
	if err == nil && t.Error != "" {
		err = fmt.Errorf("%s: %s", line, t.Error)
	}
	return t, err
}

// Roots holds the child's certificate.
func (c *Child) Roots() (*x509.CertPool, error) {
	certificate, err := x509.ParseCertificate(c.hello.Certificate)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return roots, nil
}

// dial opens n connections.
func (c *Child) dial(n int) error {
	roots, err := c.Roots()
	if err != nil {
		return err
	}
	transport := credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13})
	for range n {
		connection, err := grpc.NewClient(c.hello.Address, grpc.WithTransportCredentials(transport))
		if err != nil {
			return err
		}
		connection.Connect()
		c.pool = append(c.pool, connection)
	}
	return nil
}

func (c *Child) Stop() error {
	for _, connection := range c.pool {
		_ = connection.Close()
	}
	_ = c.orders.Close()
	return c.command.Wait()
}

// Address is where the child listens.
func (c *Child) Address() string { return c.hello.Address }

// Pid is its process.
func (c *Child) Pid() int { return c.command.Process.Pid }
