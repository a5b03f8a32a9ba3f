//go:build !linux

package main

import "time"

// Where there is no /proc, what a process holds is not measured.
func residentBytes() float64 { return 0 }

func threadTime() time.Duration { return processorTime() }
