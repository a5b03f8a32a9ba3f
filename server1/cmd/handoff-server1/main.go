// Command handoff-server1 is the demo SERVER1: see package server1.
package main

import "github.com/handoff-auth/handoff/server1"

func main() { server1.Main(server1.Config{}) }
