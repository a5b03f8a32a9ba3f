package servingtest

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// nobody is a user that owns nothing.
const nobody = 65534

// NoDumps tests that a process of this test's binary, which args and the variable asMain
// make a program that waits for its standard input, can leave no core file and is not
// dumpable. What is not dumpable belongs to root in /proc (proc(5)), and so the test
// is another user's than root's process.
func NoDumps(t testing.TB, asMain string, args []string) {
	t.Helper()
	binary, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	cmd := exec.Command("/proc/self/fd/3", args...) // that user cannot reach its path
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{binary}
	cmd.Env = []string{asMain + "=1"}
	cmd.Stderr = os.Stderr
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	none := regexp.MustCompile(`(?m)^Max core file size +0 +0 `)
	var limits []byte
	var owner uint32
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		folder := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
		if limits, err = os.ReadFile(folder + "/limits"); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(folder + "/limits")
		if err != nil {
			t.Fatal(err)
		}
		if owner = info.Sys().(*syscall.Stat_t).Uid; owner == 0 && none.Match(limits) {
			return
		}
	}
	t.Errorf("the process is dumpable: its /proc belongs to %d, and its limits are\n%s", owner, limits)
}
