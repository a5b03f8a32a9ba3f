package pair

import "syscall"

// processAttributes puts a server in a process group of its own, so that a
// Ctrl-C at the terminal reaches it only through its parent, and has the kernel
// end it when the parent dies in whatever way.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
