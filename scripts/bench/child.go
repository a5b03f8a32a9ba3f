package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// A child is a server in a process of its own, so that what it costs can be told
// from what its caller costs. It is this program, started as `bench serve`: it
// reads its order from standard input, then answers each line with its usage,
// and stops at the end.
type child struct {
	command *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
	hello   hello
	pool    []*grpc.ClientConn
}

// order says what a child is to serve.
type order struct {
	Variant variant
	Keys    json.RawMessage // SERVER1's public keys, as a JWK Set
	Dir     string
	Profile string // where it leaves a profile of its processor time; empty: nowhere
}

// hello is how a child can be reached.
type hello struct {
	Address     string
	Certificate []byte // DER
	Error       string
}

// usage is what a process has used, and what it holds.
type usage struct {
	Processor      time.Duration
	Resident, Peak float64 // bytes
}

// startChild starts a server on the processors that cores names; all, if none.
func startChild(ctx context.Context, o order, cores ...int) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{command: exec.CommandContext(ctx, program, "serve")}
	c.command.Stderr = os.Stderr
	c.command.SysProcAttr = withParent()
	if c.orders, err = c.command.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := c.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.answers = bufio.NewReader(output)
	if err := startOn(c.command, cores); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(c.orders).Encode(o); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	if err := c.read(&c.hello); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	if c.hello.Error != "" {
		return nil, errors.Join(errors.New(c.hello.Error), c.stop())
	}
	return c, nil
}

func (c *child) read(answer any) error {
	text, err := c.answers.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	return json.Unmarshal(text, answer)
}

// usage asks the child what it has used since its start.
func (c *child) usage() (u usage, err error) {
	if _, err := io.WriteString(c.orders, "usage\n"); err != nil {
		return u, err
	}
	return u, c.read(&u)
}

// roots holds the child's certificate.
func (c *child) roots() (*x509.CertPool, error) {
	certificate, err := x509.ParseCertificate(c.hello.Certificate)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return roots, nil
}

// dial opens n connections.
func (c *child) dial(n int) error {
	roots, err := c.roots()
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

func (c *child) stop() error {
	for _, connection := range c.pool {
		_ = connection.Close()
	}
	_ = c.orders.Close()
	return c.command.Wait()
}
