package main

import (
	"errors"
	"fmt"

	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// generateEnc makes a key that opens sealed tokens.
func (c *keygenCommand) generateEnc(p *program) error {
	key, err := sealed.Generate()
	if err != nil {
		return err
	}
	if err := key.Save(c.Out); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	_, err = fmt.Fprintln(p.out, "ECDH-ES", key.Public().ID())
	return err
}

// sealKeys returns the public halves where every file is a key that opens sealed
// tokens, and none where every file is something else.
func sealKeys(paths []string) ([]sealed.Key, error) {
	var keys []sealed.Key
	for _, path := range paths {
		if key, err := sealed.Load(path); err == nil {
			keys = append(keys, key.Public())
		} else if _, signs := signkey.Load(path); signs != nil {
			return nil, nil // for loadKey to say what is wrong with it
		}
	}
	if len(keys) > 0 && len(keys) < len(paths) {
		return nil, errors.New("--key: some of the keys sign, and some open sealed tokens: they are for different files")
	}
	return keys, nil
}

// unsealer returns what opens sealed tokens, or nil where no key is given.
func unsealer(paths []string) (func(string) (string, error), error) {
	if len(paths) == 0 {
		return nil, nil
	}
	var keys []sealed.PrivateKey
	for _, path := range paths {
		key, err := sealed.Load(path)
		if err != nil {
			return nil, fmt.Errorf("--unseal-key: %w", err)
		}
		keys = append(keys, key)
	}
	opener, err := sealed.NewOpener(keys...)
	if err != nil {
		return nil, fmt.Errorf("--unseal-key: %w", err)
	}
	return opener.Unseal, nil
}

// sealTo returns what seals tokens to the first key of a file, or nil where none is
// given.
func sealTo(path string) (func(string) (string, error), error) {
	if path == "" {
		return nil, nil
	}
	keys, err := sealed.LoadKeys(path)
	if err != nil {
		return nil, fmt.Errorf("--seal: %w", err)
	}
	return keys[0].Seal, nil
}
