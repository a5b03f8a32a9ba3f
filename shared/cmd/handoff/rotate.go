package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

type keysCommands struct {
	List     keysListCommand     `cmd:"" help:"Show the keys of a folder, and what to do next and when."`
	Prepare  keysPrepareCommand  `cmd:"" help:"Make a signing key that is listed from now on and does not sign yet."`
	Activate keysActivateCommand `cmd:"" help:"Let a prepared key sign, once every audience has heard of it."`
	Retire   keysRetireCommand   `cmd:"" help:"End a key that signed formerly; it stays listed until its last token is dead."`
	Taint    keysTaintCommand    `cmd:"" help:"Unlist a key that somebody else may have, at once and for good."`
}

func (keysCommands) Help() string {
	return "The life of a key: prepared, it is listed and does not sign, until every audience has heard of it; active, it signs; " +
		"retired, it is listed until its last token is dead. Tainted, it is gone at once. Each command says what comes next, and when.\n\n" +
		"Example, a first key and then its successor:\n\n" +
		"    handoff keys prepare --dir keys && handoff keys activate --dir keys\n" +
		"    handoff keys prepare --dir keys && sleep 70 && handoff keys activate --dir keys && sleep 5 && handoff keys retire --dir keys\n"
}

// keysHelp is what all of them share.
const keysHelp = "The folder has ring.json (which key is in which state), terms.json (the times by which steps are taken) and " +
	"KID.key, the private half of each key that signs or soon will. What root makes there belongs to the folder's owner. Steps exclude each other, and a step that would break living " +
	"tokens is refused, saying how long to wait. Exit status 0: done. 1: refused. 2: a mistake in the flags or the folder.\n\n"

type keysListCommand struct {
	Dir  string `required:"" placeholder:"DIR" help:"Folder of the signing keys."`
	JWKS bool   `name:"jwks" help:"Print the JWK Set that is to be listed now, as handoff verify --keys reads it."`
}

func (keysListCommand) Help() string {
	return keysHelp + "A private key that ring.json does not name, and a file .signkey-*.tmp, which has one, are what a step that was cut short has " +
		"left: nobody accepts what such a key signs, and while no step is being taken it can be deleted.\n\n" +
		"Examples:\n\n    handoff keys list --dir keys\n\n    (umask 022; handoff keys list --dir keys --jwks >shop.jwks)\n\n" +
		"Readers refuse a file that its group can write, which a umask of 002 would make of it.\n"
}

func (c *keysListCommand) Run(p *program) error {
	s, err := keyFolder(c.Dir).open()
	if err != nil {
		return dirError(err)
	}
	if !c.JWKS {
		return p.showKeys(keyFolder(c.Dir), s)
	}
	set, err := keyset.New(s.ring.Listed(p.now())...)
	if err != nil {
		return dirError(fmt.Errorf("%s lists no key: %w", c.Dir, err))
	}
	text, err := encodeJWKS(set)
	if err != nil {
		return err
	}
	_, err = p.out.Write(text)
	return err
}

type keysPrepareCommand struct {
	Dir string `required:"" placeholder:"DIR" help:"Folder of the signing keys. It is made if it does not exist."`
	Alg string `enum:",EdDSA,ES256,ES384,PS256,RS256" default:"" placeholder:"ALG" help:"Signature algorithm, as for keygen. Default: that of the key that signs now; at first EdDSA."`
	termFlags
}

func (keysPrepareCommand) Help() string {
	return keysHelp + "The first key can sign at once; each other waits until no audience can rely on a list without it. " +
		"Publish what is listed after every step.\n\n" +
		"Example:\n\n    handoff keys prepare --dir keys --max-staleness 10s --max-lifetime 2m\n"
}

func (c *keysPrepareCommand) Run(p *program) error {
	f := keyFolder(c.Dir)
	if err := os.Mkdir(c.Dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return dirError(err)
	}
	s, err := f.open()
	if err != nil {
		return dirError(err)
	}
	key, _, err := p.steps(f, s.ring, c.termFlags).Prepare(context.Background(), handoff.Algorithm(c.Alg))
	if err != nil {
		return dirError(err)
	}
	return p.taken("prepared", key.ID(), f)
}

// steps takes steps in a folder of which ring was read.
func (p *program) steps(f keyFolder, ring rotation.Ring, terms termFlags) rotation.Steps {
	signing, _ := ring.Signing() // if it is missing, the folder is the ring's all the same
	return rotation.Steps{Store: store{f, terms}, Folder: f.keys(), Lost: signing, Now: p.now}
}

type keysActivateCommand struct {
	Dir string `required:"" placeholder:"DIR" help:"Folder of the signing keys."`
	Kid string `placeholder:"KID" help:"Id of the key. Default: the only key that can be activated."`
}

func (keysActivateCommand) Help() string {
	return keysHelp + "The former key goes on being listed; retire it when every process of the issuer has taken up the new one.\n\n" +
		"Example:\n\n    handoff keys activate --dir keys\n"
}

func (c *keysActivateCommand) Run(p *program) error {
	return p.step(keyFolder(c.Dir), c.Kid, rotation.Next, "activated", rotation.Steps.Activate)
}

// step takes a step in a folder, with the ring that was read before, and prints
// what was done to which key. An empty kid stands for the only key in a state, where the
// step has one.
func (p *program) step(f keyFolder, kid string, state rotation.State, done string, take func(rotation.Steps, context.Context, string) (rotation.Ring, error)) error {
	s, err := f.open()
	if err != nil {
		return dirError(err)
	}
	if kid == "" && state != "" {
		kid, err = choose(s.ring, state, done)
	}
	if err == nil {
		_, err = take(p.steps(f, s.ring, termFlags{}), context.Background(), kid)
	}
	if err != nil {
		return p.refused(err)
	}
	return p.taken(done, kid, f)
}

type keysRetireCommand struct {
	Dir string `required:"" placeholder:"DIR" help:"Folder of the signing keys."`
	Kid string `placeholder:"KID" help:"Id of the key. Default: the only key that can be retired."`
}

func (keysRetireCommand) Help() string {
	return keysHelp + "The private half is deleted. The key that signs cannot be retired: activate another first.\n\n" +
		"Example:\n\n    handoff keys retire --dir keys\n"
}

func (c *keysRetireCommand) Run(p *program) error {
	return p.step(keyFolder(c.Dir), c.Kid, rotation.Active, "retired", rotation.Steps.Retire)
}

type keysTaintCommand struct {
	Dir string `required:"" placeholder:"DIR" help:"Folder of the signing keys."`
	Kid string `required:"" placeholder:"KID" help:"Id of the key that is tainted."`
}

func (keysTaintCommand) Help() string {
	return keysHelp + "What the key has signed is refused as soon as audiences hear of it, and the private half is deleted. Where it was the " +
		"one that signs, the first prepared key whose private half can be read signs in its place, at once; without one, prepare one first.\n\n" +
		"Example:\n\n    handoff keys taint --dir keys --kid=mUgzPMSCUIl032h7VzIH1UI883RdYSKOolzbkUHAuUU\n"
}

func (c *keysTaintCommand) Run(p *program) error {
	return p.step(keyFolder(c.Dir), c.Kid, "", "tainted", rotation.Steps.Taint) // a key that is named
}

// choose returns the only key in a state, to which a step can apply.
func choose(ring rotation.Ring, state rotation.State, verb string) (string, error) {
	var found []string
	signing, _ := ring.Signing()
	for _, k := range ring.Records() {
		if k.State == state && k.Key.ID() != signing {
			found = append(found, k.Key.ID())
		}
	}
	switch len(found) {
	case 0:
		first := "prepare one first"
		if state == rotation.Active {
			first = "the key that signs cannot; activate another first"
		}
		return "", fmt.Errorf("--kid: no key can be %s: %s", verb, first)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("--kid: %d keys can be %s: say which", len(found), verb)
}

// refused prints why a step is not taken.
func (p *program) refused(err error) error {
	switch {
	case errors.Is(err, rotation.ErrUnknown):
		return fmt.Errorf("--kid: %w", err)
	case strings.HasPrefix(err.Error(), "--"):
		return err
	case errors.As(err, new(*rotation.EarlyError)), errors.Is(err, rotation.ErrState), errors.Is(err, rotation.ErrSigns), errors.Is(err, rotation.ErrLast):
		until := ""
		if early, ok := errors.AsType[*rotation.EarlyError](err); ok {
			until = ", until " + showEnd(p.now().Add(early.Wait))
		}
		fmt.Fprintf(p.out, "refused: %s%s\n", err, until)
		return errRefused
	}
	return dirError(err)
}

func dirError(err error) error {
	if strings.HasPrefix(err.Error(), "--") { // it names another flag
		return err
	}
	return fmt.Errorf("--dir: %w", err)
}
