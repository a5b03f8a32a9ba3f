package sqlite

import (
	"errors"
	"fmt"
)

// reserve is how much of the disk only those changes get that go first: room for
// years of revocations.
const reserve = 64 << 20 // bytes

// errNearlyFull means that the disk has room only for what goes first.
var errNearlyFull = errors.New("the disk is nearly full: there is room only for what takes back")

// hasRoom is nil if there is room for every change: on a disk that is nearly full, only for
// those that go first.
func (w *writer) hasRoom() error {
	room, err := w.room()
	if err == nil && room < reserve {
		err = fmt.Errorf("sqlite: %w", errNearlyFull)
	}
	return err
}
