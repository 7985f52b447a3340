//go:build !linux && !windows

package hardware

import (
	"context"
	"errors"
	"runtime"
)

// Gather reads the facts of this machine, on Linux and Windows only.
func Gather(context.Context) (Facts, error) {
	return Facts{}, errors.New("hardware facts cannot be read on " + runtime.GOOS + "; state them in a file, [hardware] file = ...")
}
