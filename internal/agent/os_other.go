//go:build !linux && !windows

package agent

import (
	"runtime"
	"time"
)

// Only development happens here: sleep is not told from being awake.
var started = time.Now()

func awakeTime() time.Duration { return time.Since(started) }
func bootTime() time.Duration  { return awakeTime() }
func fullName() string         { return "" }
func osVersion() string        { return runtime.GOOS }
