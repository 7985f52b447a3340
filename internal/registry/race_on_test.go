//go:build race

package registry

// The race detector makes SQLite ten times slower: what is about numbers, not about goroutines, is made smaller there.
const (
	modelChecks = "3"
	manyCopies  = 8

	// On PostgreSQL what several goroutines do at once; test/run has the whole suite there without the race detector.
	postgresTests = "Batch|Concurrent|Together|Managers|AtOnce|Jobs|Rest|Runs"
)
