package agent

import (
	"fmt"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

var queryUnbiasedInterruptTime = windows.NewLazySystemDLL("kernel32.dll").NewProc("QueryUnbiasedInterruptTime")

// awakeTime is QueryUnbiasedInterruptTime, which leaves sleep and hibernation out; it counts 100 ns units.
func awakeTime() time.Duration {
	var t uint64
	if ok, _, _ := queryUnbiasedInterruptTime.Call(uintptr(unsafe.Pointer(&t))); ok == 0 {
		return 0
	}
	return time.Duration(t) * 100
}

// bootTime is GetTickCount64, which includes them.
func bootTime() time.Duration { return windows.DurationSinceBoot() }

// fullName is the fully qualified name of this PC in DNS, as Windows knows it without asking.
func fullName() string {
	n := uint32(256)
	buf := make([]uint16, n)
	if windows.GetComputerNameEx(windows.ComputerNameDnsFullyQualified, &buf[0], &n) != nil {
		return ""
	}
	name := windows.UTF16ToString(buf)
	if !strings.Contains(name, ".") {
		return ""
	}
	return name
}

// osVersion is the true version, not the one that GetVersion shows to programs without a manifest.
func osVersion() string {
	v := windows.RtlGetVersion()
	return fmt.Sprintf("Windows %d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
}
