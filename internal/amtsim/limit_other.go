//go:build !unix

package amtsim

// openFiles is how many files this process may have open; 0 is unknown, or no limit.
func openFiles() int { return 0 }
