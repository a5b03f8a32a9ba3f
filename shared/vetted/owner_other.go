//go:build !unix

package vetted

import "os"

// ownerOf takes every file for ours: its mode then decides.
func ownerOf(os.FileInfo) owner { return ours }
