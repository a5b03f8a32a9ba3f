// Package measure has what all sections of the bench share: the settings of a run,
// the table of its results, processor time, and callers.
package measure

// Settings are what a run is told.
type Settings struct {
	Short   bool   // fewer rounds, smaller stores: numbers to look at, not to keep
	Bin     string // the folder of the built programs
	Dir     string // for what the run keeps; it is removed with the run
	Profile string // a folder for the servers' profiles; empty: none are made
	Say     func(format string, args ...any)
}
