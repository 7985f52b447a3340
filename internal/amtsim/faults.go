package amtsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Faults are the switches that make a device misbehave. The zero value is a device in order. A pointer tells "after none"
// from "never". docs/protocol/amtsim.md says what each does.
type Faults struct {
	// Reaching the device. Side confines these, LatencyMS and HangAfterCalls to one interface: "network" or "local".
	Refuse bool   `json:"refuse,omitempty"` // ports closed, open connections reset
	Silent bool   `json:"silent,omitempty"` // connects are never answered
	Side   string `json:"side,omitempty"`

	LatencyMS       int  `json:"latency_ms,omitempty"`        // before each reply
	HangAfterCalls  *int `json:"hang_after_calls,omitempty"`  // requests let in and answered from now on; the next ones never are
	CloseEachReply  bool `json:"close_each_reply,omitempty"`  // Connection: close on every reply
	ChunkSize       int  `json:"chunk_size,omitempty"`        // bytes per chunk instead of the firmware's pattern
	CutReplyAfter   *int `json:"cut_reply_after,omitempty"`   // bytes of each 200 reply that arrive before the connection is reset
	GarbleEachReply bool `json:"garble_each_reply,omitempty"` // 200 with a body that is no XML

	// Logging on.
	Password    string `json:"password,omitempty"`      // the administrator's is this one
	LockedOut   bool   `json:"locked_out,omitempty"`    // every log-on is refused, as after ten failures
	NonceUses   int    `json:"nonce_uses,omitempty"`    // a nonce serves that many requests
	NonceLifeMS int    `json:"nonce_life_ms,omitempty"` // and lives that long
	Stale       string `json:"stale,omitempty"`         // what a 401 says for a nonce that is no longer good: "true", or "false" as every capture has it
	Challenge   string `json:"challenge,omitempty"`     // "md5" (default), "auth-int", "sha-256", "both"
	LacksRealm  string `json:"lacks_realm,omitempty"`   // answer to a user without the realm: "fault" (default), "401", "403"

	// The storage.
	Busy              bool   `json:"busy,omitempty"`                // every 3PDS method answers 2, not ready
	CutWriteAfter     *int   `json:"cut_write_after,omitempty"`     // bytes that reach the flash from now on; what is beyond fails with BytesWritten saying what did
	ShortWrite        int    `json:"short_write,omitempty"`         // bytes that each WriteBlock takes at most ...
	ShortWriteStatus  uint32 `json:"short_write_status,omitempty"`  // ... and its ReturnValue then
	DropSessionAfter  *int   `json:"drop_session_after,omitempty"`  // calls with a session from now on; then all sessions are dropped, once
	RestartInCall     string `json:"restart_in_call,omitempty"`     // the next call of this method takes effect (WriteBlock: half of it), then the firmware restarts without answering; once
	RestartAfterCalls *int   `json:"restart_after_calls,omitempty"` // method calls from now on; the next takes no effect and the firmware restarts without answering; once
	FullEACL          bool   `json:"full_eacl,omitempty"`           // others hold the free places
	FullFPACL         bool   `json:"full_fpacl,omitempty"`
	RemoveEnterprise  string `json:"remove_enterprise,omitempty"` // takes this EACL entry away, used or not, once
	WornOut           bool   `json:"worn_out,omitempty"`          // the write budget is spent
	LockByOther       bool   `json:"lock_by_other,omitempty"`     // every block is locked by another application
	CorruptReads      bool   `json:"corrupt_reads,omitempty"`     // ReadBlock gives one wrong bit

	// The machine.
	Unprovisioned bool   `json:"unprovisioned,omitempty"` // not set up: no network side; nothing is cleared
	Mode          string `json:"mode,omitempty"`          // "smb", "enterprise" or "client"
	No3PDS        bool   `json:"no_3pds,omitempty"`       // the classes do not exist
}

// check refuses values that mean nothing.
func (f *Faults) check() error {
	for _, v := range []struct {
		name, value string
		of          []string
	}{
		{"side", f.Side, []string{"network", "local"}},
		{"stale", f.Stale, []string{"true", "false"}},
		{"challenge", f.Challenge, []string{"md5", "auth-int", "sha-256", "both"}},
		{"lacks_realm", f.LacksRealm, lacksRealmForms},
		{"mode", f.Mode, modes},
	} {
		if v.value != "" && !slices.Contains(v.of, v.value) {
			return fmt.Errorf("%s %q is none of %s", v.name, v.value, strings.Join(v.of, ", "))
		}
	}
	for _, v := range []struct {
		name  string
		value int
	}{
		{"latency_ms", f.LatencyMS}, {"chunk_size", f.ChunkSize}, {"nonce_uses", f.NonceUses}, {"nonce_life_ms", f.NonceLifeMS},
		{"short_write", f.ShortWrite}, {"hang_after_calls", orZero(f.HangAfterCalls)}, {"cut_write_after", orZero(f.CutWriteAfter)},
		{"drop_session_after", orZero(f.DropSessionAfter)}, {"cut_reply_after", orZero(f.CutReplyAfter)},
		{"restart_after_calls", orZero(f.RestartAfterCalls)},
	} {
		if v.value < 0 || v.value > 1<<30 {
			return fmt.Errorf("%s %d is out of range", v.name, v.value)
		}
	}
	if m := f.RestartInCall; m != "" && !knownMethod(m) {
		return fmt.Errorf("restart_in_call %q is no method of this firmware", m)
	}
	if f.ChunkSize > 0xFFFF {
		return fmt.Errorf("chunk_size %d does not fit in four hex digits", f.ChunkSize)
	}
	if f.Silent && !canBeSilent {
		return errors.New("silent needs Linux: other systems answer connects for a full listener")
	}
	return nil
}

func orZero(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}

// on reports whether the switches that Side confines act on s.
func (f *Faults) on(s side) bool { return f.Side == "" || f.Side == s.String() }

// offers reports whether the challenge has an algorithm or quality of protection.
func (f *Faults) offers(what string) bool {
	switch what {
	case "sha-256":
		return f.Challenge == "sha-256" || f.Challenge == "both"
	case "md5":
		return f.Challenge != "sha-256"
	}
	return f.Challenge == what
}

// ParseFaults reads one object of switches. An unknown key, and anything after the object, is an error.
func ParseFaults(b []byte) (Faults, error) {
	var f Faults
	if err := strictJSON(b, &f); err != nil {
		return Faults{}, err
	}
	return f, f.check()
}

func strictJSON(b []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// ParseFaultsFile reads a --faults file for devices 1 to n: an object from device numbers, or ranges such as "10-19", to
// switches. A device named twice, or one that does not exist, is an error.
func ParseFaultsFile(b []byte, n int) (map[int]Faults, error) {
	var raw map[string]json.RawMessage
	if err := strictJSON(b, &raw); err != nil {
		return nil, err
	}
	if err := uniqueKeys(b); err != nil {
		return nil, err
	}
	all := map[int]Faults{}
	for key, value := range raw {
		from, to, err := deviceRange(key)
		if err != nil {
			return nil, err
		}
		if to > n {
			return nil, fmt.Errorf("faults are given for device %d, but the devices are 1 to %d", to, n)
		}
		f, err := ParseFaults(value)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", key, err)
		}
		for i := from; i <= to; i++ {
			if _, twice := all[i]; twice {
				return nil, fmt.Errorf("device %d is named twice", i)
			}
			all[i] = f
		}
	}
	return all, nil
}

// uniqueKeys refuses an object that has a key twice, of which a map would keep the last. b is known to be JSON.
func uniqueKeys(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.Token() // the brace
	for seen := map[json.Token]bool{}; d.More(); {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("device %v is named twice", key)
		}
		seen[key] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
	}
	return nil
}

func deviceRange(key string) (from, to int, err error) {
	first, last, isRange := strings.Cut(key, "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.Atoi(first)
	to, err2 := strconv.Atoi(last)
	if err1 != nil || err2 != nil || from < 1 || to < from {
		return 0, 0, fmt.Errorf("%q is no device number and no range such as \"10-19\"", key)
	}
	return from, to, nil
}

// methodNames are all that restart_in_call may name.
func knownMethod(name string) bool {
	for _, c := range classes {
		for _, m := range c.methods {
			if m.name == name {
				return true
			}
		}
	}
	return false
}
