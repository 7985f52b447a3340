// Package checkin is what a client and its higher system say to each other: the signed Report, the signed Reply,
// and the HTTP that carries them. docs/protocol/checkin.md states the formats in full.
//
// # Report
//
// A report is a JWS (RFC 7515, compact, EdDSA) whose protected header carries the public key and, when the client
// enrols, the proof of an enrolment token. A relay reads it and passes it on; it can neither alter nor forge one.
//
// # Reply
//
// A reply is a JWS by the manager's key over the report's digest. The fingerprint of that key is part of every
// enrolment token, so a client judges the first reply already.
package checkin

import (
	"context"
	"encoding/json"
	"time"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// A HigherSystem is what a client reports to: the manager, or a relay on the way.
//
// CheckIn returns the higher system's reply, or an error that wraps one of ErrRefused (the report will never be
// accepted as it is), ErrUnavailable (nobody knows; send it again unchanged) or the context's error.
type HigherSystem interface {
	CheckIn(ctx context.Context, r SignedReport) (Reply, error)
}

// Report is what a client says of itself: a full report all of it, a delta (Report.Delta) that all is as in its Base.
// Every string in it is the client's word and hostile until escaped where
// it is shown. Limits: docs/protocol/checkin.md; Verify enforces them.
type Report struct {
	Audience Fingerprint `json:"aud"` // the manager's key
	HostID   hostid.ID   `json:"host_id"`
	SignKey  []byte      `json:"sign_key"` // the Ed25519 public key that signs the report, 32 bytes; Sign sets it
	SealKey  []byte      `json:"seal_key"` // public key to seal settings to; 32 bytes, X25519

	Epoch    Token  `json:"epoch"`         // random per data folder
	Counter  uint64 `json:"counter"`       // counts reports of the epoch from 1; for display
	Previous Digest `json:"previous"`      // digest of the report before this one in the epoch; zero for the first
	Run      Token  `json:"run"`           // random at each service start and after each sleep
	AgeMS    uint64 `json:"age_ms"`        // how long the run has lasted, by a clock that stops in sleep
	Time     string `json:"time"`          // the client's wall clock, RFC 3339; for display, never for a decision
	Base     Digest `json:"base,omitzero"` // a delta's: the full report of the epoch that it goes by; zero for a full report

	Facts     hardware.Facts `json:"facts,omitzero"`
	Names     Names          `json:"names,omitzero"`
	Addresses []string       `json:"addresses,omitzero"`
	Versions  Versions       `json:"versions,omitzero"`
	Stores    []StoreState   `json:"stores,omitzero"`

	Origin       hostid.Origin `json:"origin,omitzero"`
	Provisional  bool          `json:"provisional,omitzero"`
	Pending      bool          `json:"pending,omitzero"` // restored, but the board sits in another case
	EpochBy      EpochBy       `json:"epoch_by"`         // how the epoch began
	CopyOf       hostid.ID     `json:"copy_of,omitzero"` // lineage
	Observations []Observation `json:"observations,omitempty"`
	Replaced     []string      `json:"replaced,omitempty"` // Replacement statements, JWS by the old record's key
	Done         []string      `json:"done,omitempty"`     // IDs of orders carried out

	// Placeholders names the manager's list of placeholder values that this client goes by: hardware.Placeholders.Digest; ""
	// while it has none.
	Placeholders string `json:"placeholders,omitempty"`

	// Settings says which settings of the manager this client holds; nil where it takes none: who has no use for the AMT
	// management user is not told a password.
	Settings *SettingsState `json:"settings,omitempty"`

	// Relay is how a relay's spool stands; nil where the sender is none.
	Relay *RelayState `json:"relay,omitempty"`
}

// EpochBy says how an epoch began. A branch whose epoch began by a restore from memory weighs more than others.
type EpochBy string

// The ways in which an epoch begins.
const (
	EpochInstall EpochBy = "install" // a new data folder, ID generated there
	EpochRestore EpochBy = "restore" // a new data folder, ID restored from memory
	EpochNewID   EpochBy = "new-id"  // the host ID of the folder changed
	EpochOrder   EpochBy = "order"
	EpochUnread  EpochBy = "unreadable" // the chain on disk could not be read
)

// Names are how the PC calls itself.
type Names struct {
	Host string `json:"host"`
	FQDN string `json:"fqdn,omitzero"`
}

// Versions of what runs there.
type Versions struct {
	Client string `json:"client"`
	OS     string `json:"os"`
}

// StoreState is what became of one store at this check-in. The words are data: whoever shows them needs no
// knowledge of the hardware.
type StoreState struct {
	Name   string    `json:"name"`             // amt, ...
	State  string    `json:"state"`            // hostid's words: stored, empty, not-initialized, ...
	HostID hostid.ID `json:"host_id,omitzero"` // the ID found there, where it is another
	Error  string    `json:"error,omitzero"`   // what went wrong and what to do
}

// Observation is something odd that the client's policy met and reports: a conflict, a copy, a moved disk.
type Observation struct {
	Kind   string    `json:"kind"`
	Mine   hostid.ID `json:"mine,omitzero"`
	Other  hostid.ID `json:"other,omitzero"`
	Order  string    `json:"order,omitempty"` // ObservedOrderFailed: the order's ID
	Detail string    `json:"detail,omitzero"`
}

// ObservedOrderFailed is the kind of an observation that an order cannot be carried out: Order is its ID, Other the
// host ID it names, Detail why. The report that is accepted first with it is the last one to carry it.
const ObservedOrderFailed = "order-failed"

// Replacement is the statement that a host ID takes the place of another whose record was readable, signed by the
// old record's key (typ "samehost/replaced/1"). It is durable before the old record is overwritten and stands in
// every report until the manager names it.
type Replacement struct {
	Old      hostid.ID   `json:"old"`
	New      hostid.ID   `json:"new"`
	NewKey   []byte      `json:"new_key"`
	Audience Fingerprint `json:"aud"`
}

// Reply is the manager's answer to one report.
type Reply struct {
	Report      Digest        `json:"report"` // digest of the report answered
	Status      ReplyStatus   `json:"status"`
	HostID      hostid.ID     `json:"host_id"`
	Interval    time.Duration `json:"-"`    // "interval_s" on the wire, whole seconds; until the next check-in
	Time        time.Time     `json:"time"` // the manager's clock, UTC
	Orders      []Order       `json:"orders,omitempty"`
	Named       []hostid.ID   `json:"named,omitempty"`      // replaced IDs that the manager has taken note of
	Provisional bool          `json:"provisional,omitzero"` // the manager has an open conflict about this host

	// Placeholders is the manager's list of values that prove nothing, in the form that hardware.ParsePlaceholders
	// reads, at most hardware.MaxPlaceholderList bytes; it comes where the report named another list, "" where it need
	// not. A list that became empty is a comment (hardware.Placeholders.String).
	Placeholders string `json:"placeholders,omitempty"`

	// Settings come where the report named other ones than those that hold for this host.
	Settings *SealedSettings `json:"settings,omitempty"`

	// Late comes with Deferred where a relay has the manager's answer to an earlier report of this client that nobody
	// waited for any more; nil for none.
	Late *LateReply `json:"-"`

	// Raw is the signed form, as stored and sent again.
	Raw string `json:"-"`
}

// LateReply is the manager's answer to an earlier report: its reply, signed by the manager for that report, or a refusal,
// which is the relays' word.
type LateReply struct {
	Report  Digest
	Raw     string
	Refused *Refusal // instead of Raw
}

// ReplyStatus says what became of the report.
type ReplyStatus string

// Accepted is the manager's; Deferred is a relay's own "stored durably", which carries no orders and is not signed
// by the manager.
const (
	Accepted ReplyStatus = "accepted"
	Deferred ReplyStatus = "deferred"
)

// Order is something the manager wants done, bound to host ID, epoch and run. It is done once, durably, and its ID
// stands in the Done of the next report: after NewID and TakeBack that is the first one under the other host ID.
type Order struct {
	ID     string    `json:"id"`
	Kind   OrderKind `json:"kind"`
	HostID hostid.ID `json:"host_id"`
	Epoch  Token     `json:"epoch"`
	Run    Token     `json:"run"`

	// Other is the host ID to take back (TakeBack), or the one that UseNonvolatile means.
	Other hostid.ID `json:"other,omitzero"`

	// Enrol goes with NewID: an enrolment token for the new host ID, sealed to the seal key of the report that is
	// answered (SealOrder). So a PC whose token has ended all the same becomes an asset of its own.
	Enrol string `json:"enrol,omitempty"`
}

// OrderKind says what is to be done.
type OrderKind string

// The orders.
const (
	OrderFullReport     OrderKind = "full-report"
	OrderNewEpoch       OrderKind = "new-epoch"
	OrderNewID          OrderKind = "new-id"          // a new host ID and seed; the record is set aside; lineage is kept
	OrderTakeBack       OrderKind = "take-back"       // the record of Other, which an order had replaced
	OrderRebind         OrderKind = "rebind"          // keep the host ID, take the present facts, write the memory
	OrderUseNonvolatile OrderKind = "use-nonvolatile" // take the record that memory holds, Other
)

type plainReply Reply

type wireReply struct {
	plainReply
	IntervalS uint32 `json:"interval_s"`
}

// MarshalJSON writes the reply with its interval in whole seconds.
func (r Reply) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireReply{plainReply(r), uint32(r.Interval / time.Second)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Reply) UnmarshalJSON(b []byte) error {
	var w wireReply
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*r = Reply(w.plainReply)
	r.Interval = time.Duration(w.IntervalS) * time.Second
	return nil
}
