package pair

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// Program is an API client: it calls SERVER1 with a key of its own in place of a session.
type Program struct {
	ID      string
	KeyFile string
	key     *signkey.Key
}

// AddProgram makes a program's key, and has SERVER1's operator register its public half.
func (p *Pair) AddProgram(ctx context.Context, name string, roles ...string) (*Program, error) {
	private, public := p.path(name+".key"), p.path(name+".jwks")
	if err := p.handoff(ctx, []string{"keygen", "--out", private}, []string{"public", "--key", private, "--out", public}); err != nil {
		return nil, err
	}
	command := []string{"client", "add", "--name", name, "--key", public}
	for _, role := range roles {
		command = append(command, "--role", role)
	}
	said, err := p.Operate(ctx, command)
	if err != nil {
		return nil, err
	}
	id := addedID.FindStringSubmatch(said)
	if id == nil {
		return nil, fmt.Errorf("client add does not say the client's id: %q", said)
	}
	key, err := signkey.Load(private)
	return &Program{ID: id[1], KeyFile: private, key: key}, err
}

func (c *Program) params() assertion.Params { return assertion.Params{Client: c.ID, Audience: Issuer} }

// Signs signs each attempt of a call of IssueHandoff.
func (c *Program) Signs() (grpc.CallOption, error) {
	signs, err := handoffgrpc.ClientKey(c.key, c.params())
	return grpc.PerRPCCredentials(signs), err
}

// Assertion signs once. Call with Session to send it.
func (c *Program) Assertion(ctx context.Context) (string, error) {
	return assertion.Sign(ctx, c.key, c.params())
}
