package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/test/play"
)

// S14, S17, S19: one command for a whole company. Of 2000 PCs one in a hundred refuses connections, is silent, has another
// password or is full; every outcome, the summary, the log and the exit code say exactly that. `make bench` does it with 10,000.
func TestWholeCompany(t *testing.T) {
	t.Parallel()
	const (
		company = 2000
		network = "127.126.128.1"
	)
	// Spread over each hundred; five wrong passwords in front of everything would stop the run.
	ailments := map[int]struct{ fault, reason, message string }{
		20: {`{"refuse": true}`, "nothing-answers", "SHAM1002-E"},
		40: {`{"silent": true}`, "nothing-answers", "SHAM1002-E"},
		60: {`{"password": "Another1!"}`, "log-on-refused", "SHAM1010-E"},
		80: {`{"full_eacl": true}`, "eacl-full", "SHAM1017-E"},
	}
	faults := make(map[string]json.RawMessage)
	for n := 1; n <= company; n++ {
		if a, ok := ailments[n%100]; ok {
			faults[fmt.Sprint(n)] = json.RawMessage(a.fault)
		}
	}
	dir := t.TempDir()
	stage := &play.Stage{Dir: dir, Bin: bin}
	t.Cleanup(func() {
		if err := stage.Close(); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(faults)
	must(err)
	faultsFile, all, config := filepath.Join(dir, "faults.json"), filepath.Join(dir, "NETM.NDD"), filepath.Join(dir, "manager.toml")
	must(os.WriteFile(faultsFile, b, 0o600))
	must(os.WriteFile(filepath.Join(dir, "amt-password"), []byte(play.Password), 0o600))
	must(os.WriteFile(config, []byte("data_dir = \".\"\n[amt]\npassword_file = \"amt-password\"\n[dcmamtin]\nresolve = \"file\"\n"), 0o600))
	simulator, err := stage.Start("amtsim", "--devices", fmt.Sprint(company), "--network", network, "--local", "none",
		"--password", play.Password, "--faults", faultsFile, "--system-file", all)
	must(err)
	must(simulator.Until("ready"))

	want := make(map[string]string) // reason by host, "" for the initialized
	counts, messages := make(map[string]int), make(map[string]int)
	b, err = os.ReadFile(all)
	must(err)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "'") {
			continue
		}
		a := ailments[(len(want)+1)%100]
		want[strings.Fields(line)[1]] = a.reason
		if a.reason != "" {
			counts[a.reason]++
			messages[a.message]++
		}
	}
	if len(want) != company {
		t.Fatalf("%d host names in the file, want %d", len(want), company)
	}

	run, err := stage.Run("dcmamtin", "/f", all, "--config", config, "--json")
	must(err)
	if run.Code != 30 {
		t.Errorf("exit code %d, want 30\n%s", run.Code, run.Stderr)
	}
	type summary struct {
		Targets     int            `json:"targets"`
		Initialized int            `json:"initialized"`
		Already     int            `json:"already_initialized"`
		Failed      int            `json:"failed"`
		NotTried    int            `json:"not_tried"`
		Reasons     map[string]int `json:"reasons"`
		ExitCode    int            `json:"exit_code"`
	}
	var sum summary
	got := make(map[string]string)
	for line := range strings.Lines(run.Stdout) {
		var l struct {
			Host    string   `json:"host"`
			OK      bool     `json:"ok"`
			Reason  string   `json:"reason"`
			Summary *summary `json:"summary"`
		}
		must(json.Unmarshal([]byte(line), &l))
		if l.Summary != nil {
			sum = *l.Summary
			continue
		}
		if _, twice := got[l.Host]; twice || l.OK != (l.Reason == "") {
			t.Errorf("%s: twice %v, ok %v, reason %q", l.Host, twice, l.OK, l.Reason)
		}
		got[l.Host] = l.Reason
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	failed := company * len(ailments) / 100
	if diff := cmp.Diff(summary{company, company - failed, 0, failed, 0, counts, 30}, sum); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}

	b, err = os.ReadFile(filepath.Join(dir, "DCMAMT.LOG"))
	must(err)
	log := string(b)
	for id, n := range messages {
		if lines := strings.Count(log, " "+id+" host="); lines != n {
			t.Errorf("%d lines of the log have %s, want %d", lines, id, n)
		}
	}
	last := fmt.Sprintf("SHAM0003-W targets=%d initialized=%d already=0 failed=%d not_tried=0 ", company, company-failed, failed)
	if strings.Count(log, "\n") != failed+2 || !strings.Contains(log, last) || !strings.Contains(log, " exit_code=30 ") {
		t.Errorf("the log has %d lines, want %d, and among them %q with exit_code=30:\n%.2000s", strings.Count(log, "\n"), failed+2, last, log[max(0, len(log)-2000):])
	}
}
