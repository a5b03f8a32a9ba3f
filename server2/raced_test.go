//go:build race

package main

// raced says that the race detector is there, which holds several times the memory
// of what it watches.
const raced = true
