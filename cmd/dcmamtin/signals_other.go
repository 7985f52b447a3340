//go:build !windows

package main

import (
	"os/signal"
	"syscall"
)

// ignoreSignals makes errors of what would end the process: a reader of our output that ends early, and a limit of the size
// of files, are exit code 12.
func ignoreSignals() { signal.Ignore(syscall.SIGPIPE, syscall.SIGXFSZ) }
