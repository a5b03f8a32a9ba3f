package main

import (
	"errors"
	"log/slog"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/serving"
)

// trusted returns the public keys by which SERVER1's tokens are known.
func (c *serveCommand) trusted(log *slog.Logger) (handoff.KeySource, error) {
	if c.Keys == "" {
		return nil, &serving.SettingError{Setting: "keys", Err: errors.New("no file is given")}
	}
	keys, err := keyset.Load(c.Keys)
	if err != nil {
		return nil, &serving.SettingError{Setting: "keys", Err: err}
	}
	keys.Observe = func(err error) {
		if err != nil {
			log.Error("the changed keys do not load: the last good ones stay in use", "cause", err.Error())
			return
		}
		log.Info("keys loaded again")
	}
	return keys, nil
}
