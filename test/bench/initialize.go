package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"samehost/test/play"
)

// A company of simulated PCs, and one in a hundred of each kind that fails.
const (
	company = 10000
	// PCs beside them, for what takes seconds per PC.
	oneByOne = 10
	byShell  = 5

	companyNetwork = "127.126.64.1"
	companyControl = "127.126.63.1:8000"
	companyLatency = 200 * time.Millisecond // per firmware call, as slow firmware has it

	stuckAfter = 3 * time.Minute
)

// ailments: the place in each hundred, the fault, and the reason that dcmamtin has to give. They are spread, for the file is
// worked through from its beginning and five wrong passwords in front of everything would stop the run.
var ailments = []struct {
	place         int
	fault, reason string
}{
	{20, `{"refuse": true}`, "nothing-answers"},
	{40, `{"silent": true}`, "nothing-answers"},
	{60, `{"password": "Another1!"}`, "log-on-refused"},
	{80, `{"full_eacl": true}`, "eacl-full"},
}

const silentPlace = 40

func initializing(stage *play.Stage) error {
	var runs [3]initialized
	slow, err := startCompany(stage, companyLatency)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "dcmamtin /f, the simulated PCs on the same processors\ts\tPCs/s\tMB at most\taim")
	row := func(what string, r initialized, aim string) {
		fmt.Fprintf(t, "%s\t%.1f\t%.0f\t%.0f\t%s\n", what, r.took.Seconds(), r.perSecond(), r.mb, aim)
	}
	if runs[0], err = slow.initialize("all", slow.pcs[:company], true); err != nil {
		return err
	}
	row(fmt.Sprintf("%d PCs, %v per firmware call; 1 %% refuse, 1 %% silent, 1 %% wrong password, 1 %% full", company, companyLatency), runs[0], "60 s, 150 MB")
	one, err := slow.initialize("one-at-a-time", slow.pcs[company:company+oneByOne], true, "--parallel", "1")
	if err != nil {
		return err
	}
	state, err := slow.pcs[company].state()
	if err != nil {
		return err
	}
	calls := 0
	for _, n := range state.Calls {
		calls += n
	}
	shell, shellErr := slow.shellLoop(slow.pcs[company+oneByOne:])
	if shellErr != nil && !errors.Is(shellErr, exec.ErrNotFound) {
		return shellErr
	}
	if err := slow.Stop(); err != nil {
		return err
	}

	for i, silent := range []bool{true, false} {
		quick, err := startCompany(stage, 0)
		if err != nil {
			return err
		}
		if runs[1+i], err = quick.initialize("quick", quick.pcs[:company], silent); err != nil {
			return err
		}
		if err := quick.Stop(); err != nil {
			return err
		}
	}
	row("the same, 0 ms", runs[1], "20 s")
	row("the same, 0 ms, without the silent ones", runs[2], "")
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Printf("beside the silent ones, the last of the others was finished after %.1f s; without them after %.1f s: ratio %.2f\n\n",
		runs[1].others.Seconds(), runs[2].others.Seconds(), runs[1].others.Seconds()/runs[2].others.Seconds())

	fmt.Fprintf(t, "the same simulator, %v per firmware call\tPCs\tPCs/s\tratio\n", companyLatency)
	fmt.Fprintf(t, "dcmamtin, %d calls per PC\t%d\t%.1f\t1\n", calls, runs[0].pcs, runs[0].perSecond())
	for _, slower := range []struct {
		what string
		initialized
		err error
	}{
		{"dcmamtin --parallel 1", one, nil},
		{fmt.Sprintf("shell loop over wsl, %d calls per PC", len(shellSteps)), shell, shellErr},
	} {
		if slower.err != nil {
			fmt.Fprintf(t, "%s\tNOT MEASURED: %v\n", slower.what, slower.err)
			continue
		}
		fmt.Fprintf(t, "%s\t%d\t%.2f\t1/%.0f\n", slower.what, slower.pcs, slower.perSecond(), runs[0].perSecond()/slower.perSecond())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Println()
	return nil
}

// A companyFleet is a running simulator.
type companyFleet struct {
	*play.Process
	stage *play.Stage
	pcs   []simulatedPC // the company, then the two samples
}

// simulatedPC is a line of the system configuration information file.
type simulatedPC struct {
	number        int // from 1
	line          string
	host, address string
	reason        string // why dcmamtin has to fail on it; "" if it has not
	silent        bool
}

func startCompany(stage *play.Stage, latency time.Duration) (*companyFleet, error) {
	devices := company + oneByOne + byShell
	faults := make(map[string]json.RawMessage)
	reasons := make(map[int]string)
	for hundred := 0; hundred < company; hundred += 100 {
		for _, a := range ailments {
			faults[strconv.Itoa(hundred+a.place)] = json.RawMessage(a.fault)
			reasons[hundred+a.place] = a.reason
		}
	}
	b, err := json.Marshal(faults)
	if err != nil {
		return nil, err
	}
	faultsFile, all := filepath.Join(stage.Dir, "faults.json"), filepath.Join(stage.Dir, "company.NDD")
	if err := os.WriteFile(faultsFile, b, 0o600); err != nil {
		return nil, err
	}
	f := &companyFleet{stage: stage}
	if f.Process, err = stage.Start("amtsim", "--devices", strconv.Itoa(devices), "--network", companyNetwork, "--local", "none", "--password", play.Password,
		"--latency", latency.String(), "--faults", faultsFile, "--system-file", all, "--control", companyControl); err != nil {
		return nil, err
	}
	if err := f.Until("ready"); err != nil {
		return nil, err
	}
	if b, err = os.ReadFile(all); err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "'") {
			continue
		}
		fields := strings.Fields(line)
		n := len(f.pcs) + 1
		f.pcs = append(f.pcs, simulatedPC{number: n, line: line, address: fields[0], host: fields[1],
			reason: reasons[n], silent: n <= company && n%100 == silentPlace})
	}
	if len(f.pcs) != devices {
		return nil, fmt.Errorf("%s names %d PCs, want %d", all, len(f.pcs), devices)
	}
	return f, nil
}

// initialized is what a run over so many PCs took.
type initialized struct {
	pcs    int
	took   time.Duration
	others time.Duration // until the last PC that is not silent was finished
	mb     float64       // resident, at most
}

func (i initialized) perSecond() float64 { return float64(i.pcs) / i.took.Seconds() }

// initialize runs dcmamtin over the PCs, without the silent ones unless they are wanted, and checks the exit code, every
// PC's outcome and the counts: a wrong answer has no speed.
func (f *companyFleet) initialize(name string, pcs []simulatedPC, silent bool, args ...string) (initialized, error) {
	dir := filepath.Join(f.stage.Dir, name)
	var list strings.Builder
	expected, reasons, failures := make(map[string]simulatedPC), make(map[string]int), 0
	for _, pc := range pcs {
		if pc.silent && !silent {
			continue
		}
		list.WriteString(pc.line)
		expected[pc.host] = pc
		if pc.reason != "" {
			reasons[pc.reason]++
			failures++
		}
	}
	file, config := filepath.Join(dir, "NETM.NDD"), filepath.Join(dir, "manager.toml")
	err := errors.Join(
		os.RemoveAll(dir), // log and journal of the run before
		os.MkdirAll(dir, 0o700),
		os.WriteFile(file, []byte(list.String()), 0o600),
		os.WriteFile(filepath.Join(dir, "amt-password"), []byte(play.Password), 0o600),
		os.WriteFile(config, []byte("data_dir = \".\"\n[amt]\npassword_file = \"amt-password\"\n[dcmamtin]\nresolve = \"file\"\n"), 0o600))
	if err != nil {
		return initialized{}, err
	}

	cmd := exec.Command(filepath.Join(f.stage.Bin, "dcmamtin"), append([]string{"/f", file, "--config", config, "--json", "--progress", "none"}, args...)...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	if err != nil {
		return initialized{}, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return initialized{}, err
	}
	stuck := time.AfterFunc(stuckAfter, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	r := initialized{pcs: len(expected)}
	var sum struct {
		Targets     int            `json:"targets"`
		Initialized int            `json:"initialized"`
		Failed      int            `json:"failed"`
		NotTried    int            `json:"not_tried"`
		Reasons     map[string]int `json:"reasons"`
		ExitCode    int            `json:"exit_code"`
	}
	var wrong error
	lines := bufio.NewScanner(out)
	for n := 1; lines.Scan(); n++ {
		if n%100 == 1 { // the kernel keeps the highest; once the process has ended it tells nothing
			if mb, err := memory(cmd.Process.Pid, "VmHWM:"); err == nil {
				r.mb = mb
			}
		}
		var l struct {
			Host    string          `json:"host"`
			OK      bool            `json:"ok"`
			Reason  string          `json:"reason"`
			Summary json.RawMessage `json:"summary"`
		}
		err := json.Unmarshal(lines.Bytes(), &l)
		if err == nil && l.Summary != nil {
			err = json.Unmarshal(l.Summary, &sum)
		} else if err == nil {
			pc, once := expected[l.Host]
			delete(expected, l.Host)
			if !once || l.Reason != pc.reason || l.OK != (pc.reason == "") {
				err = fmt.Errorf("%s (device %d): reason %q, want %q; named once: %v", l.Host, pc.number, l.Reason, pc.reason, once)
			}
			if !pc.silent {
				r.others = time.Since(began)
			}
		}
		wrong = cmp.Or(wrong, err)
	}
	wrong = cmp.Or(wrong, lines.Err())
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return r, err
	}
	r.took = time.Since(began)
	want := 0
	if failures > 0 {
		want = 30
	}
	switch {
	case wrong != nil:
		return r, fmt.Errorf("dcmamtin: %w\n%s", wrong, &problems)
	case cmd.ProcessState.ExitCode() != want || sum.ExitCode != want:
		return r, fmt.Errorf("dcmamtin: exit code %d, told as %d, want %d\n%s", cmd.ProcessState.ExitCode(), sum.ExitCode, want, &problems)
	case len(expected) > 0 || sum.Targets != r.pcs || sum.Initialized != r.pcs-failures || sum.Failed != failures || sum.NotTried != 0 || !maps.Equal(sum.Reasons, reasons):
		return r, fmt.Errorf("dcmamtin: summary %+v and %d PCs without a line; want %d PCs, %d failures: %v", sum, len(expected), r.pcs, failures, reasons)
	}
	return r, nil
}

// shellSteps are the fewest calls that leave a PC as dcmamtin leaves it and know that it is so: look, add, read back, for the
// enterprise entry and for the allocation entry. dcmamtin asks for version, setup and more besides.
var shellSteps = []string{
	"EnumerateStorageEaclEntries",
	"AddStorageEaclEntry EnterpriseName=samehost",
	"GetStorageEaclEntry Handle=1",
	"EnumerateStorageAllocEntries",
	"AddStorageFpaclEntry AttrType=1 ApplicationName=samehost VendorName=samehost IsPartner=true TotalAllocationSize=8192",
	"GetStorageAllocEntry Handle=1",
}

// shellLoop does with Debian's WS-Management shell client what an administrator could do instead, and checks that the
// PCs took it. The error wraps exec.ErrNotFound where that client is not installed.
func (f *companyFleet) shellLoop(pcs []simulatedPC) (initialized, error) {
	for _, program := range []string{"wsl", "curl", "xmllint", "uuidgen"} {
		if _, err := exec.LookPath(program); err != nil {
			return initialized{}, err
		}
	}
	const class = "AMT_ThirdPartyDataStorageAdministrationService"
	home := filepath.Join(f.stage.Dir, "shell")
	var script strings.Builder
	script.WriteString("set -e\nfor WSENDPOINT in \"$@\"; do\nexport WSENDPOINT\n")
	for _, step := range shellSteps {
		method, in, _ := strings.Cut(step, " ")
		fmt.Fprintf(&script, "wsl invoke %s %s -inst instance %s >/dev/null\ngrep -q 'ReturnValue>0<' response.xml\n", class, method, in)
	}
	script.WriteString("done\n")
	err := os.MkdirAll(home, 0o700)
	for name, text := range map[string]string{".curlrc": "digest\nsilent\n", ".wsl-config": "\n",
		"instance": "<wsa:ReferenceParameters>\n<wsman:ResourceURI>http://intel.com/wbem/wscim/1/amt-schema/1/" + class + "</wsman:ResourceURI>\n<wsman:SelectorSet>\n" +
			"<wsman:Selector Name=\"CreationClassName\">" + class + "</wsman:Selector>\n</wsman:SelectorSet>\n</wsa:ReferenceParameters>\n"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(home, name), []byte(text), 0o600))
	}
	if err != nil {
		return initialized{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stuckAfter)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", script.String(), "sh")
	cmd.WaitDelay = time.Second // for what the shell has started
	for _, pc := range pcs {
		cmd.Args = append(cmd.Args, pc.address+":16992")
	}
	cmd.Dir = home
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return strings.HasSuffix(strings.ToLower(name), "_proxy")
	}), "HOME="+home, "WSUSER="+play.User, "WSPASS="+play.Password, "WSNOSSL=1", "WSDONTASK=y", "TERM=dumb")
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return initialized{}, fmt.Errorf("shell loop over wsl: %w\n%s", err, out)
	}
	r := initialized{pcs: len(pcs), took: time.Since(began)}
	for _, pc := range pcs {
		state, err := pc.state()
		if err != nil {
			return r, err
		}
		if len(state.Enterprises) != 1 || len(state.Entries) != 1 {
			return r, fmt.Errorf("shell loop over wsl: %s (device %d) has %d enterprise and %d allocation entries, want one of each", pc.host, pc.number, len(state.Enterprises), len(state.Entries))
		}
	}
	return r, nil
}

// firmwareState is what the simulator tells of a PC.
type firmwareState struct {
	Calls       map[string]int    `json:"calls"` // by method
	Enterprises []json.RawMessage `json:"enterprises"`
	Entries     []json.RawMessage `json:"entries"`
}

func (pc simulatedPC) state() (s firmwareState, err error) {
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(fmt.Sprintf("http://%s/devices/%d", companyControl, pc.number))
	if err != nil {
		return s, err
	}
	defer answer.Body.Close()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}
