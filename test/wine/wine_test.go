// Package wine runs dcmamtin.exe, cross-compiled, as Windows would: the manual's own example line with a drive and a
// path of that system, under Wine, against simulated PCs that run on Linux.
package wine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

// S20. The example of the manual, as a shell of Windows hands it over.
const example = `D:\Program Files\Hitachi\NETMDM\DMPRM\NETM.NDD`

const (
	password = "P@ssw0rd!"
	network  = "127.125.0."
	control  = "127.126.0.1:8000"
)

func TestManualsExample(t *testing.T) {
	t.Parallel()
	w := windows(t)
	devices := simulate(t, `{"4": {"busy": true}, "8": {"hang_after_calls": 0}}`)
	w.write(`C:\ProgramData\samehost\manager.toml`, "data_dir = 'C:\\ProgramData\\samehost'\r\n[amt]\r\npassword_file = \"amt-password\"\r\n[dcmamtin]\r\nresolve = \"file\"\r\n")
	w.write(`C:\ProgramData\samehost\amt-password`, password+"\r\n")
	w.write(example, systemFile(1, 2, 3))

	// 0: every PC of the file, with the configuration that the command finds by itself.
	r := w.run(0, "/f", example)
	if r.stderr != "" {
		t.Errorf("standard error: %q", r.stderr)
	}
	for _, n := range []int{1, 2, 3} {
		if d := devices.get(t, n); len(d.Entries) != 1 || len(d.Enterprises) != 1 {
			t.Errorf("device %d: %d allocation entries, %d enterprise entries; want one of each", n, len(d.Entries), len(d.Enterprises))
		}
		if !strings.Contains(r.stdout, fmt.Sprintf("PC%04d (%s%d): ", n, network, n)) {
			t.Errorf("no line for PC%04d:\n%s", n, r.stdout)
		}
	}
	if !strings.Contains(r.stdout, `C:\ProgramData\samehost\DCMAMT.LOG`) {
		t.Errorf("the log's path is not told:\n%s", r.stdout)
	}
	log := w.read(`C:\ProgramData\samehost\DCMAMT.LOG`)
	if !strings.Contains(log, "SHAM0001-I source="+quoted(example)+" targets=3 ") ||
		!regexp.MustCompile(`SHAM0002-I targets=3 initialized=3 already=0 failed=0 not_tried=0 .*exit_code=0 `).MatchString(log) {
		t.Errorf("the log:\n%s", log)
	}

	// 30: one PC fails; 0 for a file with a name in Japanese on the drive.
	w.write(`D:\some.NDD`, systemFile(1, 4))
	r = w.run(30, "/f", `D:\some.NDD`, "--json")
	if s := r.summary(t); s.Targets != 2 || s.Initialized != 1 || s.Already != 1 || s.Reasons["busy"] != 1 || s.ExitCode != 30 {
		t.Errorf("summary %+v", s)
	}
	w.write(`D:\構成\システム.NDD`, systemFile(1))
	w.run(0, "/f", `D:\構成\システム.NDD`)
	w.run(31, "/I", network+"4")

	// 2, 1 and 12, one line each.
	for _, test := range []struct {
		code int
		args []string
		says string
	}{
		{2, []string{"/f", `NETM.NDD`}, "full path"},
		{2, []string{"/f", `D:NETM.NDD`}, "full path"},
		{2, []string{"/f", `\NETM.NDD`}, "full path"},
		{2, []string{"/F", example}, "write /f"},
		{1, []string{"/f", `D:\missing.NDD`}, `D:\missing.NDD`},
		{1, []string{"/f", `E:\NETM.NDD`}, `E:\NETM.NDD`},
		{1, []string{"/f", `D:\Program Files`}, `D:\Program Files`},
		{12, []string{"/f", example, "--config", `D:\missing.toml`}, `D:\missing.toml`},
	} {
		r := w.run(test.code, test.args...)
		if r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, test.says) {
			t.Errorf("%q: want one line with %q on standard error and nothing else:\n%s\n%s", test.args, test.says, r.stdout, r.stderr)
		}
	}

	// Japanese is written as UTF-8, to standard output and to the log.
	r = w.run(30, "/f", `D:\some.NDD`, "--lang", "ja")
	log = w.read(`C:\ProgramData\samehost\DCMAMT.LOG`)
	for _, text := range []string{r.stdout, log} {
		if !utf8.ValidString(text) || !strings.Contains(text, "機器が処理中であるか、まだ準備ができていません。") {
			t.Errorf("Japanese is not there as UTF-8:\n%s", text)
		}
	}
	if strings.Contains(log, password) {
		t.Error("the password is in the log")
	}

	// The journal of the first run, and none for arguments that touched no PC.
	journals, sources := w.journals(), make(map[string]bool)
	for _, j := range journals {
		source, _, _ := strings.Cut(filepath.Base(j), ".")
		sources[source] = true
	}
	if len(sources) != 4 {
		t.Fatalf("journals of %d sources, want 3 files and 1 address: %q", len(sources), journals)
	}
	text, err := os.ReadFile(journals[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(text), `{"target":`); got != 3 || !strings.Contains(string(text), `"source":`+quoted(example)) {
		t.Errorf("%s: %d targets, want 3:\n%s", journals[0], got, text)
	}

	w.resume(devices)
}

// resume: a run at whose fourth PC nothing moves on keeps a second one away, is killed, and the next one goes on with it.
func (m *machine) resume(devices *fleet) {
	t := m.t
	t.Helper()
	const file = `D:\resume.NDD`
	m.write(file, systemFile(5, 6, 7, 8, 9))
	c := m.command(m.exe, "/f", file, "--parallel", "1", "--timeout", "2m")
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	c.Stdout, c.Stderr = output, output
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		c.Wait()
		close(ended)
	}()
	for deadline := time.Now().Add(time.Minute); ; {
		b, err := os.ReadFile(output.Name())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "PC0007") && devices.get(t, 8).Connections > 0 {
			break
		}
		select {
		case <-ended:
			t.Fatalf("dcmamtin.exe ended at a PC that hangs:\n%s", b)
		case <-time.After(20 * time.Millisecond): // a poll of what another process writes
		}
		if time.Now().After(deadline) {
			t.Fatalf("dcmamtin.exe did not come to its fourth PC within a minute:\n%s", b)
		}
	}

	if r := m.run(12, "/f", file); r.stdout != "" || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("a second run at once: want one line on standard error and nothing else:\n%s%s", r.stdout, r.stderr)
	}
	c.Process.Kill() // as when the power fails
	<-ended
	devices.clearFaults(t, 8)
	before := []int{devices.get(t, 5).Connections, devices.get(t, 6).Connections, devices.get(t, 7).Connections}
	r := m.run(0, "/f", file, "--resume", "--json")
	if s := r.summary(t); s.Targets != 5 || s.Initialized != 5 || s.Failed != 0 || s.ExitCode != 0 {
		t.Errorf("the summary of the resumed run: %+v", s)
	}
	if after := []int{devices.get(t, 5).Connections, devices.get(t, 6).Connections, devices.get(t, 7).Connections}; !slices.Equal(before, after) {
		t.Errorf("connections to the PCs that were finished: %d before, %d after", before, after)
	}
	for n := 5; n <= 9; n++ {
		if d := devices.get(t, n); len(d.Entries) != 1 || d.Calls["AddStorageFpaclEntry"] != 1 {
			t.Errorf("device %d: %d allocation entries, added %d times; want one, added once", n, len(d.Entries), d.Calls["AddStorageFpaclEntry"])
		}
	}
	m.run(0, "/f", file, "--retry-failed")
	m.write(file, systemFile(5, 6, 7, 9))
	m.run(1, "/f", file, "--resume")
}

// journals are the files in the journals' folder, in the order in which they were written last.
func (m *machine) journals() []string {
	m.t.Helper()
	files, err := filepath.Glob(m.path(`C:\ProgramData\samehost\initializations\*.journal`))
	if err != nil {
		m.t.Fatal(err)
	}
	slices.SortFunc(files, func(a, b string) int {
		x, errX := os.Stat(a)
		y, errY := os.Stat(b)
		if err := errors.Join(errX, errY); err != nil {
			m.t.Fatal(err)
		}
		return x.ModTime().Compare(y.ModTime())
	})
	return files
}

// quoted is a value as a line of the log has it.
func quoted(path string) string { return `"` + strings.ReplaceAll(path, `\`, `\\`) + `"` }

// systemFile lists devices as the programs of those days wrote them: Shift_JIS, CRLF, with comments.
func systemFile(devices ...int) string {
	const (
		meetingRoom = "\x89\xef\x8b\x63\x8e\xba" // 会議室
		table       = "\x95\x5c"                 // 表, whose second byte is a backslash
	)
	var b strings.Builder
	b.WriteString("' " + table + "\r\n")
	for _, n := range devices {
		fmt.Fprintf(&b, "%s%d PC%04d HID=,TYPE=client,MAC=00-11-22-33-44-%02X,COMMENT=3F, %s%s,ROOT=\\,DATE=2025/04/01 09:00:00\r\n", network, n, n, n, meetingRoom, table)
	}
	fmt.Fprintf(&b, "%s200 MANAGER TYPE=manager\r\n", network)
	return b.String()
}

// need finds a program where Debian and others put it, or fails the test: a Windows that does not come judges nothing.
// `make test` installs it; SAMEHOST_SKIP_WINE leaves the test out, loudly, where it cannot be installed.
func need(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("SAMEHOST_SKIP_WINE") != "" {
		t.Skipf("NOT TESTED: dcmamtin.exe. None of %s is installed, and SAMEHOST_SKIP_WINE is set", strings.Join(names, ", "))
	}
	t.Fatalf("Wine is missing (none of %s): run test/install as root, or set SAMEHOST_SKIP_WINE to leave this test out", strings.Join(names, ", "))
	return ""
}

// machine is a Windows of the test's own: its drives are folders, and its programs end with the test.
type machine struct {
	t      *testing.T
	wine   string
	exe    string
	drives map[string]string
	env    []string
}

func windows(t *testing.T) *machine {
	t.Helper()
	wine := need(t, "wine64", "wine64-stable", "/usr/lib/wine/wine64", "wine")
	server := need(t, "wineserver", "wineserver-stable", "/usr/lib/wine/wineserver64", "/usr/lib/wine/wineserver")
	dir := t.TempDir()
	prefix := filepath.Join(dir, "prefix")
	m := &machine{t: t, wine: wine, exe: filepath.Join(dir, "dcmamtin.exe"),
		drives: map[string]string{"C": filepath.Join(prefix, "drive_c"), "D": filepath.Join(dir, "d")}}
	for _, folder := range []string{"home", "d"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if !slices.Contains([]string{"HOME", "DISPLAY", "LANG", "LC_ALL", "LC_MESSAGES", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}, name) {
			m.env = append(m.env, e)
		}
	}
	m.env = append(m.env, "HOME="+filepath.Join(dir, "home"), "WINEPREFIX="+prefix, "WINEARCH=win64", "WINEDEBUG=-all",
		"WINEDLLOVERRIDES=mscoree,mshtml,winemenubuilder.exe=", // none of their installers and menus
		"LC_ALL=C.UTF-8") // file names in UTF-8; to the command it is English

	build := exec.Command("go", "build", "-o", m.exe, "samehost/cmd/dcmamtin")
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build dcmamtin.exe: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		end := exec.Command(server, "--kill", "--wait") // of this prefix only
		end.Env = m.env
		end.Run()
	})
	began := time.Now()
	if code, _, stderr := m.wineRun("wineboot", "--init"); code != 0 {
		t.Fatalf("Wine does not start: exit code %d\n%s", code, stderr)
	}
	t.Logf("%s was ready after %v", wine, time.Since(began).Round(time.Millisecond))
	if err := os.Symlink(m.drives["D"], filepath.Join(prefix, "dosdevices", "d:")); err != nil {
		t.Fatal(err)
	}
	const library = "bcryptprimitives.dll"
	if path := m.path(`C:\windows\system32\` + library); !exists(path) {
		t.Logf("this Wine has no %s: the test gives it one", library)
		if err := os.WriteFile(path, forwarder(library, "ProcessPrng", "advapi32.SystemFunction036"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// path is where a file of that Windows is on Linux.
func (m *machine) path(windows string) string {
	drive, rest, _ := strings.Cut(windows, ":")
	return filepath.Join(m.drives[drive], strings.ReplaceAll(rest, `\`, "/"))
}

func (m *machine) write(windows, content string) {
	m.t.Helper()
	path := m.path(windows)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(windows string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.path(windows))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// command is a program that Wine will run.
func (m *machine) command(program string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute)
	m.t.Cleanup(cancel)
	c := exec.CommandContext(ctx, m.wine, append([]string{program}, args...)...)
	c.Dir, c.Env = filepath.Dir(m.exe), m.env
	return c
}

func (m *machine) wineRun(program string, args ...string) (code int, stdout, stderr string) {
	m.t.Helper()
	c := m.command(program, args...)
	// Files, not pipes: helpers of Wine inherit a pipe, outlive the program, and whoever reads it waits for them.
	var texts [2]string
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(m.t.TempDir(), "")
		if err != nil {
			m.t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	c.Stdout, c.Stderr = files[0], files[1]
	err := c.Run()
	for i, f := range files {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			m.t.Fatal(err)
		}
		texts[i] = string(b)
	}
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		code = failed.ExitCode()
	} else if err != nil {
		m.t.Fatalf("%s %q: %v\n%s%s", program, args, err, texts[0], texts[1])
	}
	return code, texts[0], texts[1]
}

type result struct{ stdout, stderr string }

// run runs dcmamtin.exe and wants that exit code.
func (m *machine) run(want int, args ...string) result {
	m.t.Helper()
	code, stdout, stderr := m.wineRun(m.exe, args...)
	if code != want {
		m.t.Fatalf("dcmamtin.exe %q: exit code %d, want %d\n%s%s", args, code, want, stdout, stderr)
	}
	return result{stdout, stderr}
}

// summary is the last line of --json.
func (r result) summary(t *testing.T) (s struct {
	Targets     int            `json:"targets"`
	Initialized int            `json:"initialized"`
	Already     int            `json:"already_initialized"`
	Failed      int            `json:"failed"`
	Reasons     map[string]int `json:"reasons"`
	ExitCode    int            `json:"exit_code"`
}) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	line := struct{ Summary any }{&s}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	return s
}

// fleet is simulated PCs and their control API.
type fleet struct{ http.Client }

func simulate(t *testing.T, faults string) *fleet {
	t.Helper()
	dir := t.TempDir()
	program, file := filepath.Join(dir, "amtsim"), filepath.Join(dir, "faults.json")
	if out, err := exec.Command("go", "build", "-o", program, "samehost/cmd/amtsim").CombinedOutput(); err != nil {
		t.Fatalf("build amtsim: %v\n%s", err, out)
	}
	if err := os.WriteFile(file, []byte(faults), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "--devices", "20", "--network", network+"1", "--local", "none", "--password", password, "--faults", file, "--control", control)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ready" {
			return &fleet{http.Client{Timeout: 10 * time.Second}}
		}
	}
	t.Fatal("amtsim ended before it was ready")
	return nil
}

// device is what the control API tells of a simulated PC.
type device struct {
	Calls       map[string]int    `json:"calls"`
	Connections int               `json:"connections"`
	Enterprises []json.RawMessage `json:"enterprises"`
	Entries     []json.RawMessage `json:"entries"`
}

func (f *fleet) get(t *testing.T, n int) device {
	t.Helper()
	r, err := f.Get(fmt.Sprintf("http://%s/devices/%d", control, n))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var d device
	if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (f *fleet) clearFaults(t *testing.T, n int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("http://%s/devices/%d/faults", control, n), strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := f.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("faults of device %d: %s", n, answer.Status)
	}
}
