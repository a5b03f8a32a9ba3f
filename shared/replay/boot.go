package replay

import (
	"encoding/hex"
	"os"
	"strings"
)

// A bootID names one run of the machine's kernel. While it lasts, what write(2)
// took is in the file, even if the process is killed.
type bootID [16]byte

// currentBoot returns the zero bootID, which equals no other, where the kernel
// does not tell.
func currentBoot() bootID {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return bootID{}
	}
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(b) != len(bootID{}) {
		return bootID{}
	}
	return bootID(b)
}

func (b bootID) same(other bootID) bool { return b != bootID{} && b == other }
