package amtinit

import "time"

// The lines of a journal: see docs/protocol/journal.md. Exactly one of the three is set.
type JournalLine struct {
	Run    *JournalRun    `json:"run,omitempty"`
	Target *JournalTarget `json:"target,omitempty"`
	End    *JournalEnd    `json:"end,omitempty"`
}

// JournalRun begins a journal, and each further run that goes on with it.
type JournalRun struct {
	Format     int       `json:"format"` // 1
	Program    string    `json:"program"`
	Source     string    `json:"source"` // the full path after /f, or the host or address
	Digest     string    `json:"digest"` // SHA-256 of the file, hex; "" without /f
	Targets    int       `json:"targets"`
	Mode       string    `json:"mode"` // all, resume or retry-failed
	Started    time.Time `json:"started"`
	By         string    `json:"by"`      // the operating system's name of who ran it
	Machine    string    `json:"machine"` // where
	Enterprise string    `json:"enterprise"`
}

// JournalTarget is a finished target. Of several lines for one host the last counts.
type JournalTarget struct {
	Host         string    `json:"host,omitempty"`
	Address      string    `json:"address,omitempty"` // where it answered, else the file's
	Finished     time.Time `json:"finished"`
	OK           bool      `json:"ok"`
	Already      bool      `json:"already,omitempty"`
	Done         []string  `json:"done,omitempty"` // as in --json
	Reason       Code      `json:"reason,omitempty"`
	Step         Step      `json:"step,omitempty"`
	Status       uint32    `json:"status,omitempty"`
	Detail       string    `json:"detail,omitempty"`
	PlatformGUID string    `json:"platform_guid,omitempty"` // raw SMBIOS byte order, 32 upper-case hex digits
	Version      string    `json:"amt_version,omitempty"`
	Milliseconds int64     `json:"milliseconds"`
}

// JournalEnd says that a run came to its end by itself.
type JournalEnd struct {
	Finished time.Time `json:"finished"`
	ExitCode int       `json:"exit_code"`
}
