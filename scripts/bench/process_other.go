//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"syscall"
	"time"
)

// Where there is no /proc, what a process holds is not measured.
func residentBytes() float64 { return 0 }
func peakBytes() float64     { return 0 }

func threadTime() time.Duration { return processorTime() }

func pause(d time.Duration) { time.Sleep(d) }

func withParent() *syscall.SysProcAttr { return nil }

func startOn(command *exec.Cmd, cores []int) error {
	if len(cores) > 0 {
		return errors.New("a process can be given a processor of its own on Linux alone")
	}
	return command.Start()
}
