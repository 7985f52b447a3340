package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/test/play"
)

// A run over 2000 PCs, killed at ten random moments and resumed each time: every PC is initialized once, what was finished is
// not touched again, and counts and exit code are those of a run that nobody killed. A moment is a number of outcomes that the
// run has told.
func TestKilledAndResumed(t *testing.T) {
	t.Parallel()
	const (
		company = 2000
		kills   = 10
		network = "127.122.1.1"
		control = "127.122.0.1:8000"
	)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	ailments := map[int]struct{ fault, reason string }{
		20: {`{"refuse": true}`, "nothing-answers"},
		40: {`{"silent": true}`, "nothing-answers"},
		60: {`{"password": "Another1!"}`, "log-on-refused"},
		70: {`{"busy": true}`, "busy"},
		80: {`{"full_eacl": true}`, "eacl-full"},
		90: {`{"no_3pds": true}`, "no-3pds"},
	}
	faults, counts := make(map[string]json.RawMessage), make(map[string]int)
	for n := 1; n <= company; n++ {
		if a, ok := ailments[n%100]; ok {
			faults[fmt.Sprint(n)] = json.RawMessage(a.fault)
			counts[a.reason]++
		}
	}
	failed := company * len(ailments) / 100

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
	simulator, err := stage.Start("amtsim", "--devices", fmt.Sprint(company), "--network", network, "--local", "none", "--latency", "20ms",
		"--control", control, "--password", play.Password, "--faults", faultsFile, "--system-file", all)
	must(err)
	must(simulator.Until("ready"))

	// seen is what a device counted of us.
	type seen struct {
		Calls        map[string]int `json:"calls"`
		FailedLogOns int            `json:"failed_logons"`
		Connections  int            `json:"connections"`
	}
	client := http.Client{Timeout: 10 * time.Second}
	look := func(host string) (s seen) {
		var n int
		_, err := fmt.Sscanf(host, "pc-%d", &n)
		must(err)
		resp, err := client.Get(fmt.Sprintf("http://%s/devices/%d", control, n))
		must(err)
		defer resp.Body.Close()
		must(json.NewDecoder(resp.Body).Decode(&s))
		return s
	}

	finished := make(map[string]seen) // by host, when it was found finished for the first time
	readJournal := func() {
		paths, err := filepath.Glob(filepath.Join(dir, "initializations", "NETM-NDD-*.000001.journal"))
		must(err)
		if len(paths) == 0 {
			return // killed before there was one
		}
		text, err := os.ReadFile(paths[0])
		must(err)
		for line := range strings.Lines(string(text)) {
			var l struct {
				Target *struct {
					Host string `json:"host"`
				} `json:"target"`
			}
			if json.Unmarshal([]byte(line), &l) != nil || l.Target == nil {
				continue
			}
			if _, again := finished[l.Target.Host]; !again {
				finished[l.Target.Host] = look(l.Target.Host)
			}
		}
	}
	arguments := []string{"/f", all, "--config", config, "--parallel", "64", "--timeout", "3s", "--json"}
	for n := range kills {
		c := exec.Command(filepath.Join(bin, "dcmamtin"), arguments...)
		c.Dir = dir
		out, err := c.StdoutPipe()
		must(err)
		must(c.Start())
		moment, lines := random.IntN(120), bufio.NewScanner(out)
		t.Logf("run %d is killed after %d outcomes", n+1, moment)
		var told []string
		for range moment {
			if !lines.Scan() {
				break
			}
			var l struct {
				Host string `json:"host"`
			}
			must(json.Unmarshal(lines.Bytes(), &l))
			if _, again := finished[l.Host]; again || l.Host == "" {
				t.Fatalf("run %d tells of %q, which was finished before: %v", n+1, l.Host, again)
			}
			told = append(told, l.Host)
		}
		must(c.Process.Kill())
		c.Wait()
		if c.ProcessState.ExitCode() != -1 {
			t.Fatalf("run %d ended by itself: %v", n+1, c.ProcessState)
		}
		readJournal()
		for _, host := range told {
			if _, ok := finished[host]; !ok {
				t.Errorf("run %d told of %s, and the journal does not", n+1, host)
			}
		}
		if n == 0 {
			arguments = append(arguments, "--resume")
		}
	}
	inFlight := kills * 64

	type summary struct {
		Targets     int            `json:"targets"`
		Initialized int            `json:"initialized"`
		Failed      int            `json:"failed"`
		NotTried    int            `json:"not_tried"`
		Reasons     map[string]int `json:"reasons"`
		ExitCode    int            `json:"exit_code"`
	}
	resume := func() (hosts []string) {
		t.Helper()
		run, err := stage.Run("dcmamtin", arguments...)
		must(err)
		if run.Code != 30 {
			t.Errorf("exit code %d, want 30\n%s", run.Code, run.Stderr)
		}
		var sum summary
		for line := range strings.Lines(run.Stdout) {
			var l struct {
				Host    string   `json:"host"`
				Already bool     `json:"already_initialized"`
				Summary *summary `json:"summary"`
			}
			must(json.Unmarshal([]byte(line), &l))
			if l.Summary != nil {
				sum = *l.Summary
			} else {
				hosts = append(hosts, l.Host)
			}
			if l.Already {
				inFlight--
			}
		}
		if diff := cmp.Diff(summary{company, company - failed, failed, 0, counts, 30}, sum); diff != "" {
			t.Errorf("summary (-want +got):\n%s", diff)
		}
		return hosts
	}
	before := len(finished)
	last := resume()
	if before+len(last) != company {
		t.Errorf("%d were finished when the last run began, and it finished %d: want %d together", before, len(last), company)
	}
	if inFlight < 0 {
		t.Error("more were initialized without being finished than can have been in flight")
	}
	for _, host := range last {
		if _, again := finished[host]; again {
			t.Errorf("%s was finished before the last run", host)
		}
	}
	readJournal()
	if len(finished) != company {
		t.Fatalf("%d hosts in the journal, want %d", len(finished), company)
	}
	if again := resume(); len(again) != 0 {
		t.Errorf("everything was finished, and still: %v", again)
	}

	// What each device counted when it was finished is what it counted in the end, and it was changed once or not at all.
	bad := 0
	for host, then := range finished {
		var n int
		_, err := fmt.Sscanf(host, "pc-%d", &n)
		must(err)
		want := 1
		if _, ill := ailments[n%100]; ill {
			want = 0
		}
		now := look(host)
		if e, f := now.Calls["AddStorageEaclEntry"], now.Calls["AddStorageFpaclEntry"]; e != want || f != want {
			t.Errorf("%s: %d enterprises and %d allocations were added, want %d", host, e, f, want)
			bad++
		}
		if !maps.Equal(now.Calls, then.Calls) || now.FailedLogOns != then.FailedLogOns || now.Connections != then.Connections {
			t.Errorf("%s was touched after it was finished: %+v, then %+v", host, then, now)
			bad++
		}
		if bad > 20 {
			t.Fatal("and more")
		}
	}
}
