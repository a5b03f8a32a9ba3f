package measure

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Usage is what a process has used, and what it holds.
type Usage struct {
	Processor      time.Duration
	Resident, Peak float64 // bytes
}

// ProcessorTime is what this process has used of all processors.
func ProcessorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it is always there
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// OwnCommand is this program as one of its own children, which ends with it.
func OwnCommand(ctx context.Context, role string) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, program, role)
	command.Stderr = os.Stderr
	command.SysProcAttr = withParent()
	return command, nil
}
