package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/vetted"
)

type issueCommand struct {
	Key         string         `required:"" placeholder:"FILE" help:"Signing key, as keygen makes it."`
	Issuer      string         `required:"" placeholder:"ISS" help:"The token's iss: the name by which audiences trust this key."`
	Audience    string         `required:"" placeholder:"AUD" help:"The token's aud: the service that is to run the method, byte for byte as it names itself."`
	Subject     string         `required:"" placeholder:"SUB" help:"The token's sub: the user's immutable id."`
	Session     string         `placeholder:"SID" help:"The token's sid: 128 random bits in base64url, by which a sign-out takes it back. Default: none."`
	Lifetime    *time.Duration `placeholder:"DURATION" help:"How long the token lives, in whole seconds, such as 90s or 5m, which is the most; of a visit, 1h. Default: 60s, or what the method's rule allows; of a visit, 15m."`
	Seal        string         `placeholder:"FILE" help:"The audience's public key for sealed tokens, as handoff public writes it: only the audience can then read the token. Required where the method's rule takes only sealed ones. Default: not sealed."`
	Certificate string         `placeholder:"FILE" help:"Client certificate in PEM, the first of the file: only a connection with it can present the token (cnf, RFC 8705). Required where the method's rule takes only bound tokens. Default: the token is bound to none."`
	Method      string         `placeholder:"METHOD" help:"Full name of the method, such as /billing.v1.Billing/Pay. Required, unless there is a --visit. Default: none."`
	Visit       []string       `placeholder:"METHOD" sep:"none" help:"Makes a visit, for an application at the audience, in place of a handoff: the full name of a method that it may call. Repeat it for each, up to 32. Needs --session. Default: none; the token is a handoff."`
	Descriptors string         `placeholder:"FILE" help:"Descriptor set with the method's service and its imports, as buf build -o FILE writes it. The request is then read as JSON. Default: none; the fields come from --field."`
	Rules       string         `placeholder:"FILE" help:"JSON with rules for methods whose .proto carries none, or with stricter ones, as the audience has it. Needs --descriptors. Default: the rules that the methods carry."`
	Request     string         `placeholder:"FILE" help:"The request in protobuf's JSON form. Needs --descriptors. Default, and for -: standard input."`
	Field       []string       `placeholder:"PATH=VALUE" sep:"none" help:"A field of the request and its value as text, as SPEC.md flattens it, where there are no --descriptors. Repeat it for each populated field."`
}

func (issueCommand) Help() string {
	return "Prints the token, which is a secret until it is spent. Nobody is asked whether the user may do this: the key's holder decides. " +
		"An issuer's \"revoke\" takes back what it has issued itself: what else its key has signed is taken back for certain only by tainting the key.\n\n" +
		"A message in the request is a field, too, with the value {}: a token that names amount.minor_units and not amount is refused.\n\n" +
		"Examples:\n\n" +
		"    handoff issue --key shop.key --issuer https://shop.example --audience https://billing.example \\\n" +
		"      --subject user-7 --method /billing.v1.Billing/Pay \\\n" +
		"      --field invoice=INV-42 --field 'amount={}' --field amount.minor_units=1200\n\n" +
		"    echo '{\"invoice\":\"INV-42\"}' | handoff issue --key shop.key --issuer https://shop.example \\\n" +
		"      --audience https://billing.example --subject user-7 --method /billing.v1.Billing/Pay --descriptors billing.binpb\n\n" +
		"    handoff issue --key shop.key --issuer https://shop.example --audience https://billing.example --subject user-7 \\\n" +
		"      --session AAAAAAAAAAAAAAAAAAAAAA --visit /billing.v1.Billing/Get --visit /billing.v1.Billing/Export\n"
}

func (c *issueCommand) Run(p *program) error {
	key, err := loadKey(c.Key)
	if err != nil {
		return err
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{
		Issuer: c.Issuer, Key: key, MaxVisitLifetime: handoff.KindVisit.MaxLifetime(), Now: p.now,
	})
	if err != nil {
		return flagOf(err)
	}
	params := handoff.IssueParams{Audience: c.Audience, Subject: c.Subject, Session: c.Session, Methods: c.Visit}
	if err := c.checkVisit(); err != nil {
		return err
	}
	if c.Visit == nil {
		if params.Operation, err = c.operation(p); err != nil {
			return err
		}
	}
	if c.Lifetime != nil {
		if *c.Lifetime == 0 { // which IssueParams would take for the default
			return errors.New("--lifetime must be more than 0")
		}
		params.Lifetime = *c.Lifetime
	}
	if params.Seal, err = sealTo(c.Seal); err != nil {
		return err
	}
	if params.Certificate, err = readCertificate(c.Certificate); err != nil {
		return err
	}
	raw, _, err := issuer.Issue(context.Background(), params)
	if err != nil {
		return flagOf(err)
	}
	_, err = fmt.Fprintln(p.out, raw)
	return err
}

// checkVisit refuses what only a handoff has, where a visit is asked for.
func (c *issueCommand) checkVisit() error {
	switch {
	case c.Visit == nil && c.Method == "":
		return errors.New("--method: is required, unless --visit makes a visit")
	case c.Visit == nil:
		return nil
	case c.Method != "":
		return errors.New("--visit: it stands in the place of --method")
	case len(c.Field) > 0 || c.Request != "" || c.Descriptors != "" || c.Rules != "":
		return errors.New("--visit: a visit names no request: it excludes --field, --request, --descriptors and --rules")
	case c.Seal != "":
		return errors.New("--visit: a visit is never sealed")
	}
	return nil
}

// flags are the flags that fields of the packages' configurations come from.
var flags = map[string]string{
	"handoff.IssuerConfig.Issuer":       "--issuer",
	"handoff.IssueParams.Audience":      "--audience",
	"handoff.IssueParams.Subject":       "--subject",
	"handoff.IssueParams.Session":       "--session",
	"handoff.IssueParams.Lifetime":      "--lifetime",
	"handoff.IssueParams.Operation":     "--field",
	"handoff.IssueParams.Methods":       "--visit",
	"handoff.IssueParams.Seal":          "--seal",
	"handoff.IssueParams.Certificate":   "--certificate",
	"handoff.VerifierConfig.Audience":   "--audience",
	"handoff.VerifierConfig.Issuers":    "--issuer",
	"trust.FollowerConfig.Issuer":       "--issuer",
	"trust.FollowerConfig.TrustKeys":    "--trust-key",
	"trust.FollowerConfig.MaxStaleness": "--max-staleness",
	"trust.FollowerConfig.Skew":         "--skew",
}

// flagOf names the flag where a constructor names the field of its configuration.
func flagOf(err error) error {
	var config *handoff.ConfigError
	if !errors.As(err, &config) || flags[config.Field] == "" {
		return err
	}
	of := *config
	of.Field = flags[config.Field]
	return &of
}

func (c *issueCommand) operation(p *program) (handoff.Operation, error) {
	switch {
	case c.Descriptors == "" && c.Rules != "":
		return handoff.Operation{}, errors.New("--rules: it needs --descriptors")
	case c.Descriptors == "" && c.Request != "":
		return handoff.Operation{}, errors.New("--request: it needs --descriptors")
	case c.Descriptors == "":
		return parseOperation(c.Method, c.Field)
	case len(c.Field) > 0:
		return handoff.Operation{}, errors.New("--field: with --descriptors the fields come from --request")
	}
	descriptors, set, err := c.methods()
	if err != nil {
		return handoff.Operation{}, err
	}
	method, err := set.Method(c.Method)
	if err != nil {
		return handoff.Operation{}, fmt.Errorf("--method: %w", err)
	}
	if _, ok := method.Rule(); !ok {
		return handoff.Operation{}, fmt.Errorf("--method: %s carries no rule, so it takes no token", c.Method)
	}
	text, err := c.readRequest(p)
	if err != nil {
		return handoff.Operation{}, fmt.Errorf("--request: %w", err)
	}
	request := method.NewRequest()
	if err := readJSON(request, text, descriptors); err != nil {
		return handoff.Operation{}, fmt.Errorf("--request: %w", err)
	}
	op, err := method.Operation(request)
	if err != nil {
		return handoff.Operation{}, fmt.Errorf("--request: %w", err)
	}
	return op, nil
}

// methods returns the descriptors, and the rules that they and --rules have.
func (c *issueCommand) methods() (descriptors []byte, set *rule.Set, err error) {
	if descriptors, err = (vetted.File{Path: c.Descriptors, Max: 64 << 20}).Read(); err == nil {
		set, err = rule.ReadDescriptorSet(descriptors)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("--descriptors: %w", err)
	}
	if c.Rules == "" {
		return descriptors, set, nil
	}
	text, err := vetted.File{Path: c.Rules, Max: 1 << 20}.Read()
	if err == nil {
		set, err = set.Overlay(text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("--rules: %w", err)
	}
	return descriptors, set, nil
}

// maxRequest is the longest request that is read, in bytes: no server takes one that is
// as long.
const maxRequest = 4 << 20

// readRequest reads the request, from a pipe as well. Who may write it is its reader's
// business: a token shows what is signed.
func (c *issueCommand) readRequest(p *program) ([]byte, error) {
	in := p.in
	if c.Request != "" && c.Request != "-" {
		f, err := os.Open(c.Request)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxRequest+1))
	if err == nil && len(text) > maxRequest {
		err = fmt.Errorf("longer than %d bytes", maxRequest)
	}
	return text, err
}

// readJSON reads the JSON form of a request, and of what is packed in it.
func readJSON(request proto.Message, text, descriptors []byte) error {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(descriptors, &set); err != nil {
		return err
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return err
	}
	if !jsontext.Value(text).IsValid() { // protojson would repeat what is there instead
		return errors.New("not strict JSON")
	}
	return protojson.UnmarshalOptions{Resolver: dynamicpb.NewTypes(files)}.Unmarshal(text, request)
}
