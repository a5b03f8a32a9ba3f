package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// state is what the commands leave for each other in a file of the running pair,
// readable only by its owner: it holds a session and a token.
type state struct {
	Server1, Server2, CA string
	User, Session        string
	Token                string
	Request              json.RawMessage // the PayInvoiceRequest that Token is for
}

// folder is where a running pair keeps everything: beside the programs.
func (s *stage) folder() string { return filepath.Join(s.bin, "run") }

func (s *stage) stateFile() string { return filepath.Join(s.folder(), "client.json") }

func (s *stage) load() (*state, *pair.Client, error) {
	text, err := os.ReadFile(s.stateFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, errors.New("no pair is running: start one with `make run`, in another terminal")
	}
	if err != nil {
		return nil, nil, err
	}
	var kept state
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", s.stateFile(), err)
	}
	client, err := pair.Dial(kept.Server1, kept.Server2, kept.CA)
	return &kept, client, err
}

func (s *stage) save(kept *state) error {
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	temporary := s.stateFile() + ".new"
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, s.stateFile())
}

type runCommand struct {
	Reflection bool `help:"Let both servers offer gRPC reflection, for grpcurl."`
}

// Run leaves the pair running until it is interrupted.
func (c runCommand) Run(ctx context.Context, stage *stage) (err error) {
	if err := os.Mkdir(stage.folder(), 0o700); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("a pair is running already, or was ended abruptly: if none is, remove %s", near(stage.folder()))
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage.folder())) }()
	config := pair.Config{Dir: stage.folder(), Visits: 15 * time.Minute}
	if c.Reflection {
		config.Server1, config.Server2 = []string{"--reflection"}, []string{"--reflection"}
	}
	p, err := stage.start(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	if err := stage.save(&state{Server1: p.Server1.Address, Server2: p.Server2.Address, CA: p.CA}); err != nil {
		return err
	}
	demo := near(filepath.Join(stage.bin, "demo"))
	fmt.Fprintf(stage.out, `
Open %[1]s in a browser. The users are alice (may pay) and bob (may pay and export); both have the password %[2]q.
Each order can be paid at billing; "Open billing.localhost" opens its application, which shows invoices and payments.
A browser warns of the certificate: accept it at both sites, or import %[3]s as an authority (nobody has its key).

In another terminal, without a browser:

    %[4]s sign-in bob
    %[4]s issue INV-45 25.00
    %[4]s pay
    %[4]s export

Logs: %[5]s and %[6]s. Ctrl-C stops both, and removes them.
`, p.Shop(), pair.Password, near(p.CA), demo, near(p.Server1.Log), near(p.Server2.Log))
	select {
	case <-ctx.Done():
		fmt.Fprintln(stage.out, "\nstopped")
		return nil
	case <-p.Server1.Exited():
		return errors.New("SERVER1 has ended by itself: see " + p.Server1.Log)
	case <-p.Server2.Exited():
		return errors.New("SERVER2 has ended by itself: see " + p.Server2.Log)
	}
}

type signInCommand struct {
	User string `arg:"" help:"alice or bob."`
}

func (c signInCommand) Run(ctx context.Context, stage *stage) error {
	kept, client, err := stage.load()
	if err != nil {
		return err
	}
	defer client.Close()
	response, err := client.SignIn(ctx, c.User, pair.Password)
	if err != nil {
		return refused(err)
	}
	kept.User, kept.Session, kept.Token = c.User, response.GetSession(), ""
	if err := stage.save(kept); err != nil {
		return err
	}
	fmt.Fprintf(stage.out, "%s (%s) is signed in at SERVER1 until %s. The session is an opaque id, kept in %s.\n",
		c.User, response.GetDetails().GetUserId(), response.GetDetails().GetExpireTime().AsTime().Local().Format("2006-01-02 15:04:05 MST"), near(stage.stateFile()))
	return nil
}

// signedIn is load for the commands that need a session.
func (s *stage) signedIn() (*state, *pair.Client, error) {
	kept, client, err := s.load()
	if err == nil && kept.Session == "" {
		client.Close()
		return nil, nil, errors.New("nobody is signed in: use `demo sign-in bob` first")
	}
	return kept, client, err
}

type issueCommand struct {
	Invoice string `arg:"" help:"The invoice to pay, such as INV-45."`
	Amount  string `arg:"" help:"The amount in EUR, such as 25.00."`
}

func (c issueCommand) Run(ctx context.Context, stage *stage) error {
	minorUnits, err := parseAmount(c.Amount)
	if err != nil {
		return err
	}
	kept, client, err := stage.signedIn()
	if err != nil {
		return err
	}
	defer client.Close()
	request := payment(c.Invoice, minorUnits)
	request.RequestId = pair.NewRequestID()
	issued, err := client.Issue(ctx, kept.Session, pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, request, 0)
	if err != nil {
		return refused(err)
	}
	if kept.Request, err = protojson.Marshal(request); err != nil {
		return err
	}
	kept.Token = issued.GetToken()
	if err := stage.save(kept); err != nil {
		return err
	}
	fmt.Fprintf(stage.out, "Handoff %s: pay %s, %s EUR, at %s, until %s. The token is kept for `pay`; look at it with\n\n    %s\n",
		issued.GetHandoffId(), c.Invoice, c.Amount, issued.GetTarget(), issued.GetExpireTime().AsTime().Local().Format("2006-01-02 15:04:05 MST"),
		fmt.Sprintf(`grep -o 'eyJ[^"]*' %s | %s inspect`, near(stage.stateFile()), near(filepath.Join(stage.bin, "handoff"))))
	return nil
}

var amountFormat = regexp.MustCompile(`^([0-9]{1,12})\.([0-9]{2})$`)

func parseAmount(text string) (minorUnits int64, err error) {
	parts := amountFormat.FindStringSubmatch(text)
	if parts == nil {
		return 0, fmt.Errorf("%q is not an amount such as 25.00", text)
	}
	return strconv.ParseInt(parts[1]+parts[2], 10, 64)
}

type payCommand struct{}

func (payCommand) Run(ctx context.Context, stage *stage) error {
	kept, client, err := stage.load()
	if err != nil {
		return err
	}
	defer client.Close()
	if kept.Token == "" {
		return errors.New("there is no token: use `demo issue INV-45 25.00` first")
	}
	request := &server2v1.PayInvoiceRequest{}
	if err := protojson.Unmarshal(kept.Request, request); err != nil {
		return err
	}
	response, err := client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(kept.Token))
	if err != nil {
		return refused(err)
	}
	paid := response.GetPayment()
	fmt.Fprintf(stage.out, "SERVER2 has paid %s: payment %s, by handoff %s. Call `pay` again to see the token refused.\n",
		paid.GetInvoiceId(), paid.GetPaymentId(), paid.GetHandoffId())
	return nil
}

type exportCommand struct{}

func (exportCommand) Run(ctx context.Context, stage *stage) error {
	kept, client, err := stage.signedIn()
	if err != nil {
		return err
	}
	defer client.Close()
	request := &server2v1.ExportPaymentsRequest{}
	issued, err := client.Issue(ctx, kept.Session, pair.Audience, server2v1.InvoiceService_ExportPayments_FullMethodName, request, 0)
	if err != nil {
		return refused(err)
	}
	payments, err := client.Export(ctx, issued.GetToken(), request)
	if err != nil {
		return refused(err)
	}
	if len(payments) == 0 {
		fmt.Fprintf(stage.out, "%s has paid nothing yet.\n", kept.User)
	}
	for _, p := range payments {
		fmt.Fprintf(stage.out, "%s  %-8s %6d.%02d %s\n", p.GetPayTime().AsTime().Local().Format(time.DateTime), p.GetInvoiceId(),
			p.GetAmount().GetMinorUnits()/100, p.GetAmount().GetMinorUnits()%100, p.GetAmount().GetCurrencyCode())
	}
	return nil
}

// refused is the error of a call, with its reason first.
func refused(err error) error { return fmt.Errorf("refused: %s (%w)", outcome(err), err) }
