package main

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// residentBytes is the memory of this process that is in RAM, and peakBytes the
// most that ever was.
func residentBytes() float64 { return statusKB("VmRSS:") * 1024 }
func peakBytes() float64     { return statusKB("VmHWM:") * 1024 }

func statusKB(name string) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(status, []byte(name))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, err := strconv.ParseFloat(string(fields[0]), 64)
	if err != nil {
		return 0
	}
	return kb
}

// threadTime is what this thread has used of its processor.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // it is always there
	}
	return time.Duration(t.Nano())
}

// pause sleeps, to within some 50 us: time.Sleep may sleep a millisecond longer.
func pause(d time.Duration) {
	if d > 0 {
		t := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&t, nil) // woken early, the caller looks at the clock again
	}
}

// withParent has the kernel end a child when this process dies in whatever way.
func withParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// startOn starts a command on the processors that cores names; all, if none.
func startOn(command *exec.Cmd, cores []int) error {
	if len(cores) == 0 {
		return command.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	if err := unix.SchedSetaffinity(0, cpuSet(cores)); err != nil {
		return err
	}
	err := command.Start() // it inherits this thread's
	if err := unix.SchedSetaffinity(0, &before); err != nil {
		return err
	}
	return err
}

func cpuSet(cores []int) *unix.CPUSet {
	var set unix.CPUSet
	for _, core := range cores {
		set.Set(core)
	}
	return &set
}
