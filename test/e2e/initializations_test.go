package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// attempt is what assets and asset tell of the last attempt to initialize a PC.
type attempt struct {
	OK        bool   `json:"ok"`
	By        string `json:"by"`
	Machine   string `json:"machine"`
	Source    string `json:"source"`
	Finished  string `json:"finished"`
	Reason    string `json:"reason"`
	MessageID string `json:"message_id"`
	Matched   string `json:"matched"`
}

// told is an asset with its last attempt and, from asset, its history.
type told struct {
	HostID         string   `json:"host_id"`
	Name           string   `json:"name"`
	State          string   `json:"state"`
	Initialized    any      `json:"initialized"`
	Initialization *attempt `json:"initialization"`
	History        []struct {
		Kind string `json:"kind"`
	} `json:"history"`
}

// tell runs a samehost-manager command and returns what its lines of JSON say.
func (w *world) tell(args ...string) (list []told) {
	w.t.Helper()
	r, err := w.manager.Command(append(args, "--json")...)
	w.must(err)
	for line := range strings.Lines(r.Stdout) {
		var a told
		w.must(json.Unmarshal([]byte(line), &a))
		list = append(list, a)
	}
	return list
}

// systemUUID is the UUID that PC i's operating system shows: the bytes that its firmware tells, the first three fields
// turned round (SMBIOS 2.6, 7.2.1).
func (w *world) systemUUID(i int) string {
	w.t.Helper()
	r, err := w.manager.Dcmamtin("/I", w.stage.NetworkAddress(i), "--dry-run", "--json")
	w.must(err)
	var line struct {
		GUID string `json:"platform_guid"`
	}
	w.must(json.NewDecoder(strings.NewReader(r.Stdout)).Decode(&line))
	g := strings.ToLower(line.GUID)
	if len(g) != 32 {
		w.t.Fatalf("dcmamtin --dry-run tells no UUID:\n%s%s", r.Stdout, r.Stderr)
	}
	at := func(n int) string { return g[2*n : 2*n+2] }
	return at(3) + at(2) + at(1) + at(0) + "-" + at(5) + at(4) + "-" + at(7) + at(6) + "-" + g[16:20] + "-" + g[20:]
}

// What dcmamtin did while the manager was down is there without it, and when it serves again; each PC gets its own when
// it checks in, known by its system UUID alone: all these PCs have the name of this machine.
func TestResultsReachTheManager(t *testing.T) {
	w := newWorld(t, 3)
	w.must(w.manager.Process.Stop())
	config, err := os.OpenFile(w.manager.Config, os.O_WRONLY|os.O_APPEND, 0)
	w.must(err)
	_, err = config.WriteString("\n[dcmamtin]\nresolve = \"file\"\n")
	w.must(err)
	w.must(config.Close())
	file := filepath.Join(w.stage.Dir, "NETM.NDD")
	var text strings.Builder
	for i := 1; i <= 3; i++ {
		fmt.Fprintf(&text, "%s pc%d TYPE=client\n", w.stage.NetworkAddress(i), i)
	}
	w.must(os.WriteFile(file, []byte(text.String()), 0o600))
	dcmamtin := func(want int, args ...string) {
		t.Helper()
		r, err := w.manager.Dcmamtin(append([]string{"/f", file}, args...)...)
		w.must(err)
		if r.Code != want {
			t.Fatalf("dcmamtin %q: exit code %d, want %d\n%s%s", args, r.Code, want, r.Stdout, r.Stderr)
		}
	}

	uuids := make(map[int]string)
	for i := 1; i <= 3; i++ {
		uuids[i] = w.systemUUID(i)
	}

	w.must(w.firmware.Faults(2, `{"password": "other"}`))
	dcmamtin(30)
	check := func(when string) {
		t.Helper()
		list := w.tell("assets", "--not-initialized")
		if len(list) != 1 {
			t.Fatalf("%s: %+v, want pc2 alone", when, list)
		}
		a := list[0]
		if a.HostID != "" || a.Name != "pc2" || a.State != "unknown" || a.Initialized != false || a.Initialization == nil {
			t.Fatalf("%s: %+v", when, a)
		}
		i := *a.Initialization
		if i.By == "" || i.Machine == "" || i.Finished == "" {
			t.Fatalf("%s: when, by whom or where is missing: %+v", when, i)
		}
		i.By, i.Machine, i.Finished = "", "", ""
		if want := (attempt{Source: file, Reason: "log-on-refused", MessageID: "SHAM1010-E", Matched: "none"}); i != want {
			t.Fatalf("%s: %+v, want %+v", when, i, want)
		}
	}
	check("nobody serves")
	w.must(w.manager.Serve())
	check("served again")

	attached := func(i int, kinds ...string) {
		t.Helper()
		pc := w.pc(i)
		pc.Hardware.SystemUUID = uuids[i]
		w.must(pc.WriteHardware())
		id := w.install(pc)
		a := w.tell("asset", id.HostID)[0]
		if a.Initialized != true || a.Initialization == nil || !a.Initialization.OK || a.Initialization.Matched != "uuid" {
			t.Fatalf("pc%d: %+v", i, a)
		}
		var got []string
		for _, e := range a.History {
			if strings.HasPrefix(e.Kind, "initializ") {
				got = append(got, e.Kind)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(kinds) {
			t.Fatalf("pc%d: events %q, want %q", i, got, kinds)
		}
	}
	attached(1, "initialized")
	check("pc1 checked in")

	w.must(w.firmware.Faults(2, `{}`))
	dcmamtin(0, "--retry-failed")
	if list := w.tell("assets", "--not-initialized"); len(list) != 0 {
		t.Fatalf("all are initialized, and listed are %+v", list)
	}
	attached(2, "initialized")
	dcmamtin(0)
	attached(3, "initialized", "initialized-already")
	w.must(w.manager.Process.Stop())
	list := w.tell("assets")
	for _, a := range list {
		if a.Initialization == nil || !a.Initialization.OK || a.Initialized != true {
			t.Errorf("%+v", a)
		}
	}
	if len(list) != 3 {
		t.Errorf("%d assets, want 3", len(list))
	}
}
