// Bench measures what the project promises about speed, memory and size, in one run, and prints a table: the figure, the
// aim, and the ratio to what one would do instead. It judges no figure; it fails if a measurement does or an answer is wrong.
//
//	go run ./test/bench -bin bin
//
// Times depend on the machine and on what else it does; compare only figures of one run.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"samehost/test/play"
)

// runs of each benchmark; the median is printed.
const runs = 5

func main() {
	bin := flag.String("bin", "bin", "folder of the programs, as `make build` makes them")
	only := flag.String("only", "", "calls, check-ins, assets, initializing or sizes: nothing else")
	known := flag.Int("clients", 10000, "how many clients check in")
	assets := flag.Int("assets", 100000, "how many assets are very many")
	bare := flag.String("bare", "", "be the server that does nothing but TLS, for the benchmark itself")
	flag.Parse()
	err := error(nil)
	if *bare != "" {
		err = serveBare(*bare)
	} else {
		err = measure(*bin, *only, *known, *assets)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(bin, only string, known, assets int) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d processors, median of %d runs\n\n", runtime.Version(), runtime.NumCPU(), runs)
	dir, err := os.MkdirTemp("", "samehost-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stage := &play.Stage{Dir: dir, Bin: bin, Net: 2}
	for _, part := range []struct {
		name    string
		measure func() error
	}{
		{"calls", calls},
		{"check-ins", func() error { return loaded(stage, known) }},
		{"assets", func() error { return manyAssets(stage, assets) }},
		{"initializing", func() error { return initializing(stage) }},
		{"sizes", func() error { return sizes(stage) }},
	} {
		if err == nil && (only == "" || only == part.name) {
			err = part.measure()
		}
	}
	if closeErr := stage.Close(); err == nil {
		err = closeErr
	}
	return err
}

// figures of one benchmark: by unit.
type figures map[string]float64

var benchLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// benchmarks runs the package's benchmarks and gives the median of each figure.
func benchmarks(pkg, pattern string) (map[string]figures, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", pattern, "-benchmem", "-count", strconv.Itoa(runs), pkg)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", pkg, err, out)
	}
	all := map[string]map[string][]float64{}
	for line := range strings.Lines(string(out)) {
		m := benchLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if all[m[1]] == nil {
			all[m[1]] = map[string][]float64{}
		}
		fields := strings.Fields(m[2])
		for i := 0; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			all[m[1]][fields[i+1]] = append(all[m[1]][fields[i+1]], v)
		}
	}
	medians := map[string]figures{}
	for name, units := range all {
		medians[name] = figures{}
		for unit, values := range units {
			slices.Sort(values)
			medians[name][unit] = values[len(values)/2]
		}
	}
	return medians, nil
}

func calls() error {
	m, err := benchmarks("./internal/wsman", "^Benchmark(Get|Invoke|GetConnect|StandardLibrary|GetSimulated|InvokeSimulated|SimulatorGets)$")
	if err != nil {
		return err
	}
	std := m["StandardLibrary"]
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "one call, client and device on the same processors\tµs\tallocs\tbytes\tconns\tto net/http + encoding/xml\taim")
	row := func(what, name, aim string) {
		f := m[name]
		conns, ok := f["conns"]
		if !ok {
			conns = f["conns/op"]
		}
		fmt.Fprintf(t, "%s\t%.1f\t%.0f\t%.0f\t%.0f\t%.2f time, %.2f allocs\t%s\n",
			what, f["ns/op"]/1000, f["allocs/op"], f["B/op"], conns, f["ns/op"]/std["ns/op"], f["allocs/op"]/std["allocs/op"], aim)
	}
	row("Get, canned device (allocates nothing)", "Get", "100 µs, 120 allocs, 2 conns")
	row("Get with net/http and encoding/xml, the same device", "StandardLibrary", "")
	row("Get, simulated firmware (its allocations included)", "GetSimulated", "2 conns")
	row("Invoke of 3000 bytes, canned device", "Invoke", "2 conns")
	row("Invoke, simulated firmware (its allocations included)", "InvokeSimulated", "2 conns")
	row("first Get of a client: challenge and two connections", "GetConnect", "")
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Printf("\nsimulated firmware, asked by as many clients as there are processors: %.0f Gets per second (aim: 8000 on two processors)\n\n", m["SimulatorGets"]["gets/s"])
	return nil
}

const devices = 2000

func sizes(stage *play.Stage) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "size\tMB\taim")

	fleet, err := stage.Start("amtsim", "--devices", strconv.Itoa(devices), "--network", "127.118.0.1", "--local", "127.119.0.1")
	if err != nil {
		return err
	}
	if err := fleet.Until("ready"); err != nil {
		return err
	}
	mb, err := resident(fleet.Pid())
	if err != nil {
		return err
	}
	fmt.Fprintf(t, "amtsim with %d fresh devices, resident\t%.1f\t200\n", devices, mb)
	if err := fleet.Stop(); err != nil {
		return err
	}

	if _, err := stage.StartFirmware(1); err != nil {
		return err
	}
	manager, err := stage.InitManager()
	if err != nil {
		return err
	}
	if err := manager.Serve(); err != nil {
		return err
	}
	if r, err := manager.Dcmamtin("/I", stage.NetworkAddress(1)); err != nil || r.Code != 0 {
		return fmt.Errorf("dcmamtin: %d, %w\n%s", r.Code, err, r.Stderr)
	}
	pc, err := manager.PC(1)
	if err != nil {
		return err
	}
	client, err := pc.Serve()
	if err != nil {
		return err
	}
	if err := pc.UntilStored(""); err != nil {
		return err
	}
	if err := manager.UntilAssets(1); err != nil {
		return err
	}
	time.Sleep(5 * time.Second) // idle is what remains when the first check-in is over
	if mb, err = resident(client.Pid()); err != nil {
		return err
	}
	fmt.Fprintf(t, "samehost-client idle after a check-in, resident\t%.1f\t20\n", mb)
	for _, program := range []struct{ name, aim string }{{"samehost-client", "15"}, {"samehost-manager", ""}, {"dcmamtin", ""}, {"amtsim", ""}} {
		info, err := os.Stat(filepath.Join(stage.Bin, program.name))
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s, static binary\t%.1f\t%s\n", program.name, float64(info.Size())/1e6, program.aim)
	}
	return t.Flush()
}

// resident is the resident memory of a process, in MB.
func resident(pid int) (float64, error) { return memory(pid, "VmRSS:") }

// memory is a field of what the kernel tells of a process's memory, in MB.
func memory(pid int, field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("process %d tells no %s", pid, field)
}
