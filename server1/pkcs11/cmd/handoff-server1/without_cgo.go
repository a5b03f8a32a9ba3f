//go:build !cgo

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "handoff-server1: PKCS#11 takes cgo: build it with CGO_ENABLED=1 and a C compiler")
	os.Exit(2)
}
