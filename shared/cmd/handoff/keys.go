package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/vetted"
)

type keygenCommand struct {
	Alg string `default:"EdDSA" enum:"EdDSA,ES256,ES384,PS256,RS256" placeholder:"ALG" help:"Signature algorithm: EdDSA (Ed25519; the default), ES256, ES384, PS256 or RS256 (RSA keys have 3072 bits)."`
	Use string `default:"sig" enum:"sig,enc" placeholder:"USE" help:"sig: a key that signs (the default). enc: an audience's key that opens sealed tokens (ECDH-ES on P-256)."`
	Out string `required:"" placeholder:"FILE" help:"New file for the key, a private JWK that only its owner can read (mode 0600). It must not exist."`
}

func (keygenCommand) Help() string {
	return "Prints the algorithm and the key's id, its RFC 7638 thumbprint.\n\n" +
		"Examples:\n\n    handoff keygen --out shop.key\n    handoff keygen --use enc --out billing-unseal.key\n"
}

func (c *keygenCommand) Run(p *program) error {
	if c.Use == "enc" {
		if c.Alg != string(handoff.EdDSA) {
			return errors.New("--alg: it is for keys that sign, and --use enc makes one that does not")
		}
		return c.generateEnc(p)
	}
	key, err := signkey.Generate(handoff.Algorithm(c.Alg))
	if err != nil {
		return fmt.Errorf("--alg: %w", err)
	}
	if err := key.Save(c.Out); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	_, err = fmt.Fprintln(p.out, key.Key().Algorithm(), key.Key().ID())
	return err
}

type publicCommand struct {
	Key    []string `required:"" placeholder:"FILE" sep:"none" help:"Signing key, or key that opens sealed tokens, as keygen makes it. Repeat it for a set of several of one kind."`
	Out    string   `placeholder:"FILE" help:"New file for the public keys (mode 0644 under any umask); it must not exist. Default: standard output."`
	Format string   `default:"jwks" enum:"jwks,pem" placeholder:"FORMAT" help:"jwks: a JWK Set (RFC 7517; the default). pem: PEM blocks PUBLIC KEY, which cannot carry the algorithm of an RSA key."`
}

func (publicCommand) Help() string {
	return "The result is what keyset.Load and handoff verify --keys read; nothing in it is secret.\n\n" +
		"Of a key for sealed tokens it is what handoff issue --seal and the policy's \"seal\" take.\n\n" +
		"Example:\n\n    handoff public --key shop.key --out shop.jwks\n"
}

func (c *publicCommand) Run(p *program) error {
	text, err := c.encode()
	if err != nil {
		return err
	}
	if c.Out == "" {
		_, err = p.out.Write(text)
		return err
	}
	if err := vetted.WriteNew(c.Out, text, 0o644); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

// encode returns the public keys in the form that is asked for.
func (c *publicCommand) encode() ([]byte, error) {
	if keys, err := sealKeys(c.Key); err != nil || len(keys) > 0 {
		if err == nil && c.Format == "pem" {
			err = errors.New("--format: PEM cannot say that a key is for sealed tokens: use jwks")
		}
		if err != nil {
			return nil, err
		}
		text, err := sealed.MarshalKeys(keys...)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		return append(text, '\n'), nil
	}
	var keys []handoff.Key
	for _, path := range c.Key {
		key, err := loadKey(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key.Key())
	}
	set, err := keyset.New(keys...)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	var text []byte
	if c.Format == "pem" {
		text, err = encodePEM(set)
	} else {
		text, err = encodeJWKS(set)
	}
	if err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	return text, nil
}

// loadKey loads a signing key. Public keys in its place are refused as what they
// are: others may well read them.
func loadKey(path string) (*signkey.Key, error) {
	key, err := signkey.Load(path)
	if err == nil {
		return key, nil
	}
	if _, notPublic := keyset.Load(path); notPublic == nil {
		return nil, fmt.Errorf("--key: %s: these are public keys, which verify: a signing key, as keygen makes it, is needed", path)
	}
	return nil, fmt.Errorf("--key: %w", err)
}

func encodeJWKS(set *keyset.Set) ([]byte, error) {
	text, err := json.MarshalIndent(set, "", "  ")
	return append(text, '\n'), err
}

func encodePEM(set *keyset.Set) ([]byte, error) {
	var text []byte
	for _, key := range set.Keys() {
		if a := key.Algorithm(); a == handoff.PS256 || a == handoff.RS256 {
			return nil, fmt.Errorf("PEM cannot say that a key is for %s: use jwks", a)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	return text, nil
}
