package amtinit

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// A part of a run is what of it one machine does: the manager, or a relay for its subtree. The bodies below travel between them in
// work and progress of the kind "initialize"; docs/protocol/relay.md states them.

// PartWork says what a relay is to do.
type PartWork struct {
	Run      int64        `json:"run"` // for people: the manager's number
	DryRun   bool         `json:"dry_run,omitempty"`
	Parallel int          `json:"parallel,omitempty"` // 0: as many as the relay takes
	Targets  []PartTarget `json:"targets"`
}

// PartTarget is one PC of a part. Number names it within the run.
type PartTarget struct {
	Number  int    `json:"number"`
	Host    string `json:"host,omitempty"`
	Address string `json:"address,omitempty"`
}

// PartProgress says how far a relay is. The first has no results: the relay begins with no PC before the manager has taken it. In
// the last one Reason says why PCs are left that no progress had a result for.
type PartProgress struct {
	Machine string          `json:"machine,omitempty"` // the relay's host name
	Results []JournalTarget `json:"results,omitempty"` // with their numbers; of several for one the first counts
	Reason  Code            `json:"reason,omitempty"`
	Detail  string          `json:"detail,omitempty"`
}

// Reasons why a run left a PC alone. Nobody has been at the PC for any of them.
const (
	UnderWay         Code = "under-way"
	Cancelled        Code = "cancelled"
	ManagerWithout   Code = "manager-without-amt"
	RelayWithout     Code = "relay-without-amt"
	RelayCannot      Code = "relay-cannot"
	NothingSaidAbout Code = "nothing-reported"
)

// PartReasons lists the reasons that only runs have which the manager started, in the order of the message IDs.
func PartReasons() []Reason { return slices.Clone(partReasons) }

// AnyReason is the row of a code, of either table; false for one that only a newer release knows.
func AnyReason(c Code) (Reason, bool) {
	for _, table := range [][]Reason{reasons, partReasons} {
		for _, r := range table {
			if r.Code == c {
				return r, true
			}
		}
	}
	return Reason{}, false
}

var partReasons = []Reason{
	{UnderWay, "SHAM1101-W",
		Text{"Another run had not finished with this PC when this one began.",
			"この実行を開始した時点で、別の実行がこのPCの処理を終えていませんでした。"},
		Text{"See what the other run says of it, and start another one where it failed.",
			"別の実行の結果を確認し、失敗した場合はもう一度実行してください。"}},
	{Cancelled, "SHAM1102-W",
		Text{"The run was called off before its turn came, or before the relay system told of it.",
			"順番が来る前、または中継システムから結果が届く前に、実行が取り消されました。"},
		Text{"Start another run for it; a PC that is done already is not changed.",
			"このPCに対してもう一度実行してください。処理済みのPCは変更されません。"}},
	{ManagerWithout, "SHAM1103-E",
		Text{"The manager does this PC, and it has no AMT management user.",
			"このPCはマネージャが処理しますが、マネージャにAMT管理ユーザが設定されていません。"},
		Text{"Write the [amt] table into manager.toml, with user and password_file, and start another run for it.",
			"manager.tomlの[amt]テーブルにuserとpassword_fileを記述し、このPCに対してもう一度実行してください。"}},
	{RelayWithout, "SHAM1104-E",
		Text{"A relay system does this PC, and it has no AMT management user.",
			"このPCは中継システムが処理しますが、中継システムにAMT管理ユーザが設定されていません。"},
		Text{"Write the [amt] table into that system's relay.toml, with user and password_file, and start another run for it.",
			"中継システムのrelay.tomlの[amt]テーブルにuserとpassword_fileを記述し、このPCに対してもう一度実行してください。"}},
	{RelayCannot, "SHAM1105-E",
		Text{"The relay system that does this PC could not do its part.",
			"このPCを処理する中継システムが、受け持ち分を実行できませんでした。"},
		Text{"Read the detail, mend the relay system, and start another run for it.",
			"詳細を確認して中継システムの問題を取り除き、このPCに対してもう一度実行してください。"}},
	{NothingSaidAbout, "SHAM1106-E",
		Text{"The relay system ended its part and said nothing about this PC.",
			"中継システムは受け持ち分を終了しましたが、このPCについて報告していません。"},
		Text{"Upgrade the relay system to the manager's release, and start another run for it.",
			"中継システムをマネージャと同じリリースに更新し、このPCに対してもう一度実行してください。"}},
}

const (
	batchEvery = 250 * time.Millisecond // a few writes per second, and whoever watches sees a flow
	batchMax   = 250                    // bounds one write, and one progress
)

// Batch hands results on together. Add may be called from any goroutine.
type Batch struct {
	queue chan JournalTarget
	gone  chan struct{}
	err   error
}

// NewBatch makes a Batch that calls flush with what has come, a few times per second and with 250 at most, one call at a time.
// When flush fails, failed is called once, and what comes then is thrown away.
func NewBatch(flush func([]JournalTarget) error, failed func()) *Batch {
	b := &Batch{queue: make(chan JournalTarget, 4*batchMax), gone: make(chan struct{})}
	go func() {
		defer close(b.gone)
		tick := time.NewTicker(batchEvery)
		defer tick.Stop()
		var waiting []JournalTarget
		hand := func() {
			if len(waiting) == 0 || b.err != nil {
				waiting = nil
				return
			}
			if b.err = flush(waiting); b.err != nil {
				failed()
			}
			waiting = nil
		}
		for {
			select {
			case t, more := <-b.queue:
				if !more {
					hand()
					return
				}
				if waiting = append(waiting, t); len(waiting) == batchMax {
					hand()
				}
			case <-tick.C:
				hand()
			}
		}
	}()
	return b
}

// Add hands on one result. It waits while a thousand wait.
func (b *Batch) Add(t JournalTarget) { b.queue <- t }

// Close hands on what is left, and returns what flush failed with.
func (b *Batch) Close() error {
	close(b.queue)
	<-b.gone
	return b.err
}

// ParsePartProgress reads what a relay says. Results that say nothing, or not of what, are left out; texts are printable afterwards.
func ParsePartProgress(b []byte) (PartProgress, error) {
	var p PartProgress
	if err := json.Unmarshal(b, &p); err != nil {
		return PartProgress{}, fmt.Errorf("progress of a part: %w", err)
	}
	p.Machine, p.Detail, p.Reason = Printable(p.Machine, 256), Printable(p.Detail, maxLogText), Code(Printable(string(p.Reason), 64))
	p.Results = slices.DeleteFunc(p.Results, func(t JournalTarget) bool { return t.Number <= 0 || t.Finished.IsZero() || t.OK != (t.Reason == "") })
	for i := range p.Results {
		p.Results[i].clean()
	}
	return p, nil
}

// JournalPart is what a relay hands on of its own journals, of dcmamtin's runs there: lines in their order, and before the first
// of a journal, and of each part of one, the run that they belong to.
type JournalPart struct {
	Lines []JournalLine `json:"lines"`
}

// ParseJournalPart reads a JournalPart. Lines that say nothing are left out; texts are printable afterwards.
func ParseJournalPart(b []byte) (JournalPart, error) {
	var raw struct {
		Lines []json.RawMessage `json:"lines"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return JournalPart{}, fmt.Errorf("part of a journal: %w", err)
	}
	var p JournalPart
	for _, text := range raw.Lines {
		if line, err := parseJournalLine(text); err == nil && line != (JournalLine{}) {
			p.Lines = append(p.Lines, line)
		}
	}
	return p, nil
}

// Line is the outcome as journals and progress have it.
func (o Outcome) Line() JournalTarget { return *journalTarget(o) }
