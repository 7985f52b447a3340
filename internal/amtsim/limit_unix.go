//go:build unix

package amtsim

import "syscall"

// openFiles is how many files this process may have open; 0 is unknown. The Go runtime has raised the soft limit to the
// hard one already.
func openFiles() int {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 0
	}
	return int(min(uint64(r.Cur), 1<<30))
}
