//go:build !linux

package measure

import (
	"errors"
	"os/exec"
	"syscall"
	"time"
)

// Where there is no /proc, other processes and memory are not measured.
func UsageOf(int) Usage { return Usage{} }

func ThreadTime() time.Duration { return ProcessorTime() }

func Pause(d time.Duration) { time.Sleep(d) }

func withParent() *syscall.SysProcAttr { return nil }

func StartOn(command *exec.Cmd, cores []int) error {
	if len(cores) > 0 {
		return errConfine
	}
	return command.Start()
}

func Confine(int, ...int) error { return errConfine }

func Unconfine(int) error { return errConfine }

var errConfine = errors.New("a process can be given a processor of its own only on Linux")
