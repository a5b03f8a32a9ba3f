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

// checkRoom refuses what does not go first where the disk is nearly full.
func checkRoom(room uint64) error {
	if room >= reserve {
		return nil
	}
	return fmt.Errorf("sqlite: %w", errNearlyFull)
}

// hasRoom is nil if there is room for every change.
func (w *writer) hasRoom() error {
	room, err := w.room()
	if err != nil {
		return err
	}
	return checkRoom(room)
}
