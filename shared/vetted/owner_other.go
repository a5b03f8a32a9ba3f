//go:build !unix

package vetted

import "os"

// modesTell says that a file's mode tells who can read and write it. Here it tells only
// whether anybody can write it.
const modesTell = false

// ownerOf takes every file for ours: its mode then decides.
func ownerOf(os.FileInfo) owner { return ours }

func ownedWithFolder(os.FileInfo, string) bool { return false }

func giveToOwner(*os.File, string) error { return nil }
