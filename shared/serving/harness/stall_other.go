//go:build !unix

package harness

import "syscall"

// There are no such signals here: to send one fails.
const stopSignal, continueSignal = syscall.Signal(19), syscall.Signal(18)
