//go:build !race

package registry

const (
	modelChecks = "25"
	manyCopies  = 50

	postgresTests = "."
)
