package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/hostid"
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
		DoneOrders:   []agent.DoneOrder{{ID: "o3", Kind: checkin.OrderRebind, Time: at}, {ID: "o4", Kind: checkin.OrderNewID, Time: at}},
	}
	want := []string{
		"host ID:       10000000000000000000000000000000",
		"origin:        provisional",
		"provisional:   full service, but the host ID is not safe yet: it is not stored, or a conflict waits",
		"pending:       the board sits in another case; an operator at the manager decides",
		"higher system: none",
		"last check-in: never",
		"conflict:      memory of another board: One sentence.",
		"conflict:      of-tomorrow: Another.",
		"open order:    take the host ID from nonvolatile memory (use-nonvolatile) waits: no answer",
		"failed order:  take the former host ID back (take-back): not there",
		"order done:    " + at.Format(time.RFC3339) + " keep the host ID on this hardware (rebind)",
		"order done:    " + at.Format(time.RFC3339) + " take a new host ID (new-id)",
	}
	if diff := cmp.Diff(want, statusLines(s)); diff != "" {
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
		"enrolment:     pending: a relay has the report in its keeping, but the manager has not accepted this PC yet; that follows once the relay reaches it",
	}
	if diff := cmp.Diff(want, statusLines(s)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	s.Enrolled, s.LastAccepted = true, &earlier
	want = append(want[:4], "last accepted: "+earlier.Format(time.RFC3339))
	if diff := cmp.Diff(want, statusLines(s)); diff != "" {
		t.Errorf("once enrolled (-want +got):\n%s", diff)
	}
	s.LastReply = checkin.Accepted
	want = append(want[:3], "last check-in: "+at.Format(time.RFC3339)+" (accepted)")
	if diff := cmp.Diff(want, statusLines(s)); diff != "" {
		t.Errorf("once accepted (-want +got):\n%s", diff)
	}
}
