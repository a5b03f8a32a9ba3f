package measure

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// UsageOf is what a process has used, to within some 10 ms, and what it holds.
// What cannot be read is zero.
func UsageOf(pid int) Usage {
	const ticks = 100 // a second, on every Linux
	var u Usage
	stat, _ := os.ReadFile(processFile(pid, "stat"))
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // behind the name, where the third field begins
	if fields := bytes.Fields(rest); len(fields) > 12 {
		u.Processor = time.Duration(number64(fields[14-3])+number64(fields[15-3])) * time.Second / ticks
	}
	status, _ := os.ReadFile(processFile(pid, "status"))
	for name, of := range map[string]*float64{"VmRSS:": &u.Resident, "VmHWM:": &u.Peak} {
		_, rest, _ := bytes.Cut(status, []byte(name))
		if fields := bytes.Fields(rest); len(fields) > 0 {
			*of = number64(fields[0]) * 1024
		}
	}
	return u
}

func processFile(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

func number64(text []byte) float64 {
	x, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0
	}
	return x
}

// ThreadTime is what this thread has used of its processor.
func ThreadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // it is always there
	}
	return time.Duration(t.Nano())
}

// Pause sleeps, to within some 50 us: time.Sleep may sleep a millisecond longer.
func Pause(d time.Duration) {
	if d > 0 {
		t := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&t, nil) // woken early, the caller looks at the clock again
	}
}

// withParent has the kernel end a child when this process dies in any way.
func withParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// StartOn starts a command on the processors that cores names; all, if none.
func StartOn(command *exec.Cmd, cores []int) error {
	if len(cores) == 0 {
		return command.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetaffinity(0, processors(cores...)); err != nil {
		return err
	}
	err := command.Start() // it inherits this thread's processors
	return errors.Join(err, unix.SchedSetaffinity(0, processors()))
}

// Confine puts every thread of a process on some processors.
func Confine(pid int, cores ...int) error {
	threads, err := os.ReadDir(processFile(pid, "task"))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, processors(cores...)); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// Unconfine lets it have all again.
func Unconfine(pid int) error { return Confine(pid) }

// processors is a set of them; of none, all that the machine has.
func processors(cores ...int) *unix.CPUSet {
	var set unix.CPUSet
	for _, core := range cores {
		set.Set(core)
	}
	if len(cores) == 0 {
		set.Fill()
	}
	return &set
}
