//go:build race

package registry

// The race detector makes SQLite ten times slower: what is about numbers, not about goroutines, is made smaller there.
const (
	modelChecks = "3"
	manyCopies  = 8
)
