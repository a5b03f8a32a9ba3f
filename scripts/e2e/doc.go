// Package e2e runs the built programs as a newcomer and an operator do: real
// processes, real files, real ports.
package e2e
