package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/layout"
)

// status says in plain words what waits for a person, and what was ordered.
func TestStatusLines(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.Local)
	s := agent.Status{
		HostID: hostid.ID{0x10}, Origin: hostid.Provisional, Provisional: true, Pending: true,
		Conflicts:    []hostid.Conflict{{Kind: hostid.MemoryForeign, Sentence: "One sentence."}, {Kind: "of-tomorrow", Sentence: "Another."}},
		OpenOrders:   []agent.OpenOrder{{ID: "o1", Kind: checkin.OrderUseNonvolatile, Why: "no answer"}},
		FailedOrders: []agent.OpenOrder{{ID: "o2", Kind: checkin.OrderTakeBack, Why: "not there"}},
		DoneOrders:   []agent.DoneOrder{{ID: "o3", Kind: checkin.OrderFullReport, Time: at}, {ID: "o4", Kind: checkin.OrderNewID, Time: at}},
	}
	want := []string{
		"host ID:       10000000000000000000000000000000",
		"origin:        provisional",
		"provisional:   full service, but the host ID is not safe yet: it is not stored,\n" +
			"               or a conflict waits",
		"pending:       the board sits in another case; an operator at the manager\n" +
			"               decides",
		"higher system: none",
		"last check-in: never",
		"conflict:      memory of another board: One sentence.",
		"conflict:      of-tomorrow: Another.",
		"open order:    take the host ID from nonvolatile memory (use-nonvolatile) waits:\n" +
			"               no answer",
		"failed order:  take the former host ID back (take-back): not there",
		"order done:    " + at.Format(time.RFC3339) + " send a full report (full-report)",
		"order done:    " + at.Format(time.RFC3339) + " take a new host ID (new-id)",
	}
	if diff := cmp.Diff(want, statusLines(s, "en")); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	for _, kind := range []checkin.OrderKind{checkin.OrderFullReport, checkin.OrderNewEpoch, checkin.OrderNewID, checkin.OrderTakeBack, checkin.OrderRebind, checkin.OrderUseNonvolatile} {
		if orderWords(kind) == string(kind) {
			t.Errorf("no words for the order %s", kind)
		}
	}
	for _, kind := range []hostid.ConflictKind{hostid.MemoryForeign, hostid.OtherID, hostid.Moved, hostid.OtherCase, hostid.Twin, hostid.StoresDiffer} {
		if conflictWords(kind) == string(kind) {
			t.Errorf("no words for the conflict %s", kind)
		}
	}
}

// What a relay has in its keeping is not accepted, and a PC whose first reports are there is not enrolled.
func TestStatusBehindARelay(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.Local)
	earlier := at.Add(-time.Hour)
	s := agent.Status{HostID: hostid.ID{0x10}, Origin: hostid.Generated, HigherSystem: "https://relay:8740", LastCheckIn: &at, LastReply: checkin.Deferred}
	want := []string{
		"host ID:       10000000000000000000000000000000",
		"origin:        generated",
		"higher system: https://relay:8740",
		"last check-in: " + at.Format(time.RFC3339) + " (stored at a relay, not accepted yet)",
		"last accepted: never",
		"enrolment:     pending: a relay has the report in its keeping, but the manager\n" +
			"               has not accepted this PC yet; that follows once the relay reaches\n" +
			"               it",
	}
	if diff := cmp.Diff(want, statusLines(s, "en")); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	s.Enrolled, s.LastAccepted = true, &earlier
	want = append(want[:4], "last accepted: "+earlier.Format(time.RFC3339))
	if diff := cmp.Diff(want, statusLines(s, "en")); diff != "" {
		t.Errorf("once enrolled (-want +got):\n%s", diff)
	}
	s.LastReply = checkin.Accepted
	want = append(want[:3], "last check-in: "+at.Format(time.RFC3339)+" (accepted)")
	if diff := cmp.Diff(want, statusLines(s, "en")); diff != "" {
		t.Errorf("once accepted (-want +got):\n%s", diff)
	}
}

// Every line that status has in English it has in Japanese, with labels of one width.
func TestStatusInJapanese(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.Local)
	s := agent.Status{
		HostID: hostid.ID{0x10}, Origin: hostid.Provisional, Provisional: true, Pending: true, HardwareError: "no SMBIOS", LastError: "no answer",
		Stores:     []hostid.StoreState{{Name: "amt", State: "unavailable", Error: "nothing answers for AMT (is LMS running?): dial tcp 127.0.0.1:16992: connect: connection refused"}},
		Settings:   &agent.SettingsStatus{Version: 3, Since: at},
		Conflicts:  []hostid.Conflict{{Kind: hostid.Moved, Sentence: "One sentence."}},
		Reasons:    []string{"amt: locked"},
		OpenOrders: []agent.OpenOrder{{ID: "o1", Kind: checkin.OrderUseNonvolatile}}, FailedOrders: []agent.OpenOrder{{ID: "o2", Kind: checkin.OrderTakeBack, Why: "not there"}},
		DoneOrders: []agent.DoneOrder{{ID: "o3", Kind: checkin.OrderNewID, Time: at}}, LastCheckIn: &at, LastReply: checkin.Deferred,
	}
	when := at.Format(time.RFC3339)
	want := []string{
		"ホスト識別子:  10000000000000000000000000000000",
		"由来:          provisional",
		"暫定:          通常どおり動作しますが、ホスト識別子がまだ保存されていないか、未\n" +
			"               解決の競合があります",
		"判断待ち:      ボードが別の筐体に入っています。マネージャの管理者が判断します",
		"保管先 amt:    unavailable",
		"               nothing answers for AMT (is LMS running?): dial tcp\n" +
			"               127.0.0.1:16992: connect: connection refused",
		"ハードウェア:  情報を読めません: no SMBIOS",
		"AMT の設定:    マネージャの版 3、 による、" + when,
		"上位システム:  なし",
		"最終通信:      " + when + " (中継システムが保管、未受理)",
		"最終受理:      なし",
		"登録:          未完了: 報告は中継システムが保管していますが、マネージャはこの PC\n" +
			"               をまだ受理していません。中継システムがマネージャに接続すると完了\n" +
			"               します",
		"最終エラー:    no answer",
		"生成の理由:    amt: locked",
		"競合:          ディスクの移動またはボードの交換: One sentence.",
		"未完了の指示:  不揮発性メモリのホスト識別子を使用する (use-nonvolatile) 待機中:\n" +
			"               なし",
		"失敗した指示:  以前のホスト識別子に戻す (take-back): not there",
		"完了した指示:  " + when + " 新しいホスト識別子を取得する (new-id)",
	}
	if diff := cmp.Diff(want, statusLines(s, "ja")); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	for _, l := range strings.Split(strings.Join(want, "\n"), "\n") {
		if n := layout.Columns(l); n > layout.Screen {
			t.Errorf("%d columns: %q", n, l)
		}
	}
	for _, kind := range []checkin.OrderKind{checkin.OrderFullReport, checkin.OrderNewEpoch, checkin.OrderNewID, checkin.OrderTakeBack, checkin.OrderRebind, checkin.OrderUseNonvolatile} {
		if japanese[orderWords(kind)] == "" {
			t.Errorf("no Japanese words for the order %s", kind)
		}
	}
	for _, kind := range []hostid.ConflictKind{hostid.MemoryForeign, hostid.OtherID, hostid.Moved, hostid.OtherCase, hostid.Twin, hostid.StoresDiffer} {
		if japanese[conflictWords(kind)] == "" {
			t.Errorf("no Japanese words for the conflict %s", kind)
		}
	}
}

// Nobody is told in one breath that the manager accepted a report and that it has not accepted the PC.
func TestEnrolmentWaits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		out  agent.Outcome
		want bool
	}{
		{agent.Outcome{CheckedIn: true, Reply: checkin.Deferred}, true},
		{agent.Outcome{CheckedIn: true, Reply: checkin.Deferred, Enrolled: true}, false},
		{agent.Outcome{CheckedIn: true, Reply: checkin.Accepted}, false}, // an order gave it a new host ID meanwhile
		{agent.Outcome{}, false},
	} {
		if got := enrolmentWaits(c.out); got != c.want {
			t.Errorf("%+v: %v", c.out, got)
		}
	}
}
