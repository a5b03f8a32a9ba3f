//go:build cgo

// Command handoff-server1 is SERVER1 with keys that may stay in PKCS#11 tokens.
package main

import (
	"github.com/handoff-auth/handoff/server1"
	"github.com/handoff-auth/handoff/server1/pkcs11"
)

func main() { server1.Main(server1.Config{PKCS11: pkcs11.Load}) }
