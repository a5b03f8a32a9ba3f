//go:build !linux

package servingtest

import "syscall"

// owner is whom a server runs as: as the test does.
type owner struct{}

func findOwner() (*owner, error) { return &owner{}, nil }

func (*owner) own(string) error { return nil }

func (*owner) attributes(syscall.Signal) *syscall.SysProcAttr { return nil }
