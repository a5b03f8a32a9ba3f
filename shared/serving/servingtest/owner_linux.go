package servingtest

import (
	"errors"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// owner is whom a server runs as. PostgreSQL refuses to run as root.
type owner struct {
	credential *syscall.Credential // nil: as the test does
}

// findOwner returns the test's own user or, where that is root, one without
// rights.
func findOwner() (*owner, error) {
	if os.Geteuid() != 0 {
		return &owner{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(found.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &owner{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return nil, errors.New("no PostgreSQL to test with: it does not run as root, and there is no user nobody")
}

// own makes a folder the owner's.
func (o *owner) own(dir string) error {
	if o.credential == nil {
		return nil
	}
	return os.Chown(dir, int(o.credential.Uid), int(o.credential.Gid))
}

// attributes start a process as the owner, out of the terminal's reach, and end
// it with the test by a signal, however the test ends.
func (o *owner) attributes(end syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: o.credential, Setpgid: true, Pdeathsig: end}
}
