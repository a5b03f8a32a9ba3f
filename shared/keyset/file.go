package keyset

import (
	"fmt"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// Load reads the key set in a file, and follows the file. It refuses what is not
// a regular file, one that others than its owner can write, and every set that
// Parse refuses. The error names the path.
func Load(path string) (*Set, error) {
	s := new(Set)
	read := func(texts [][]byte) (*keys, error) {
		k, err := parse(texts[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return k, nil
	}
	observe := func(err error) {
		if s.Observe != nil {
			s.Observe(err)
		}
	}
	var err error
	if s.file, err = vetted.Follow(read, observe, vetted.File{Path: path, Max: maxSize}); err != nil {
		return nil, err
	}
	return s, nil
}
