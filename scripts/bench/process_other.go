//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"syscall"
	"time"
)

// Where there is no /proc, other processes and memory are not measured.
func usageOf(int) usage { return usage{} }

func threadTime() time.Duration { return processorTime() }

func pause(d time.Duration) { time.Sleep(d) }

func withParent() *syscall.SysProcAttr { return nil }

func startOn(command *exec.Cmd, cores []int) error {
	if len(cores) > 0 {
		return errConfine
	}
	return command.Start()
}

func confine(int, ...int) error { return errConfine }

func unconfine(int) error { return errConfine }

var errConfine = errors.New("a process can be given a processor of its own on Linux alone")
