package agent

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"samehost/internal/hostid"
)

// awakeTime is CLOCK_MONOTONIC, which stops in sleep (clock_gettime(2)).
func awakeTime() time.Duration { return clockTime(unix.CLOCK_MONOTONIC) }

// bootTime is CLOCK_BOOTTIME, which does not.
func bootTime() time.Duration { return clockTime(unix.CLOCK_BOOTTIME) }

func clockTime(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0 // no such clock before Linux 2.6.39: then no sleep is seen either
	}
	return time.Duration(ts.Nano())
}

// fullName is unknown beyond what the host name itself says.
func fullName() string { return "" }

// osVersion is PRETTY_NAME of os-release(5).
func osVersion() string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := hostid.ReadRegularFile(path, 64<<10)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return "Linux"
}
