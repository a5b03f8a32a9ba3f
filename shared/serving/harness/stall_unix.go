//go:build unix

package harness

import "syscall"

const stopSignal, continueSignal = syscall.SIGSTOP, syscall.SIGCONT
