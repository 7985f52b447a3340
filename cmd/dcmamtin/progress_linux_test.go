package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"samehost/internal/layout"
)

// openTerminal makes a terminal of that size; what is written to tty can be read from the other end.
func openTerminal(t *testing.T, columns, rows uint16) (other, tty *os.File) {
	t.Helper()
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	fail(err)
	t.Cleanup(func() { other.Close() })
	fail(unix.IoctlSetPointerInt(int(other.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(other.Fd()), unix.TIOCGPTN)
	fail(err)
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	fail(err)
	fail(unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}))
	return other, tty
}

// display is what a terminal shows that was never too small: line ends, carriage returns, cursor up, and erasing from the
// cursor downwards are all that the command may use.
type display struct {
	lines    [][]rune // a full-width character is followed by -1
	row, col int
}

var (
	escape  = regexp.MustCompile(`^\x1b\[(\d*)([AJ])`)
	escapes = regexp.MustCompile(`\x1b\[\d*[AJ]|\r`)
)

func (d *display) write(s string) error {
	for s != "" {
		for len(d.lines) <= d.row {
			d.lines = append(d.lines, nil)
		}
		line := &d.lines[d.row]
		r, size := utf8.DecodeRuneInString(s)
		switch m := escape.FindStringSubmatch(s); {
		case m != nil && m[2] == "A":
			n, err := strconv.Atoi(m[1])
			if err != nil || n > d.row {
				return fmt.Errorf("the cursor goes %s lines up from line %d", m[1], d.row)
			}
			d.row -= n
			size = len(m[0])
		case m != nil:
			*line = (*line)[:min(d.col, len(*line))]
			d.lines = d.lines[:d.row+1]
			size = len(m[0])
		case r == '\r':
			d.col = 0
		case r == '\n':
			d.row++
		case r < ' ':
			return fmt.Errorf("the terminal got %q", s[:1])
		default:
			for len(*line) < d.col+layout.Columns(string(r)) {
				*line = append(*line, ' ')
			}
			(*line)[d.col] = r
			if layout.Columns(string(r)) == 2 {
				(*line)[d.col+1] = -1
			}
			d.col += layout.Columns(string(r))
		}
		s = s[size:]
	}
	return nil
}

func (d *display) text() (lines []string) {
	for _, l := range d.lines {
		lines = append(lines, strings.ReplaceAll(string(l), string(rune(-1)), ""))
	}
	return lines
}

// program is this test's binary under the name dcmamtin.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "dcmamtin")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// startSimulator gives devices on loopback until the test ends, and the files to reach them.
func startSimulator(t *testing.T, args ...string) (list, config string) {
	t.Helper()
	dir := t.TempDir()
	list, config = filepath.Join(dir, "NETM.NDD"), filepath.Join(dir, "m.toml")
	toml := fmt.Sprintf("data_dir = %q\n[amt]\npassword_env = \"AMT_PASSWORD\"\n[dcmamtin]\nresolve = \"file\"\n", dir)
	if err := os.WriteFile(config, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(simulator, append(args, "--local", "none", "--system-file", list)...)
	var problems strings.Builder
	c.Stderr = &problems
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	for s := bufio.NewScanner(out); s.Scan(); {
		if strings.HasPrefix(s.Text(), "ready") {
			return list, config
		}
	}
	c.Wait()
	t.Fatalf("the simulator did not get ready: %s", problems.String())
	return "", ""
}

// runOnTerminal runs the program with standard error on a terminal, standard output too unless it goes elsewhere, and hands
// every bit of what the terminal got to seen.
func runOnTerminal(t *testing.T, columns uint16, stdout *os.File, seen func(all string, terminal *os.File), args ...string) (all string, exit int) {
	t.Helper()
	return runOnTerminalKind(t, "xterm", columns, stdout, seen, args...)
}

func runOnTerminalKind(t *testing.T, kind string, columns uint16, stdout *os.File, seen func(all string, terminal *os.File), args ...string) (all string, exit int) {
	t.Helper()
	other, tty := openTerminal(t, columns, 24)
	c := exec.Command(program(t), args...)
	c.Env = append(os.Environ(), "LC_ALL=C", "TERM="+kind, "NO_COLOR=1", "AMT_PASSWORD=P@ssw0rd!")
	c.Stdout, c.Stderr = tty, tty
	if stdout != nil {
		c.Stdout = stdout
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 2} // so that Ctrl-C is typed to it
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close() // so that reading ends with the program
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := other.Read(buf)
		b.Write(buf[:n])
		if seen != nil {
			seen(b.String(), other)
		}
		if err != nil { // EIO once nobody holds the terminal
			break
		}
	}
	c.Wait()
	return b.String(), c.ProcessState.ExitCode()
}

func shown(t *testing.T, all string) []string {
	t.Helper()
	var d display
	if err := d.write(all); err != nil {
		t.Fatalf("%v\n%q", err, all)
	}
	return d.text()
}

// The bar is there while PCs are worked on, stands below the lines of the targets, tears none, is never too wide, and leaves
// nothing behind.
func TestBarOnTerminal(t *testing.T) {
	t.Parallel()
	list, config := startSimulator(t, "--devices", "40", "--network", "127.123.210.1", "--latency", "30ms")
	for _, test := range []struct {
		columns int
		lang    string
	}{{80, "en"}, {40, "ja"}, {24, "en"}} {
		all, exit := runOnTerminal(t, uint16(test.columns), nil, nil, "/f", list, "--config", config, "--lang", test.lang, "--parallel", "16")
		if exit != 0 {
			t.Fatalf("exit code %d:\n%s", exit, all)
		}
		if !regexp.MustCompile(`\b\d+/40\b`).MatchString(all) {
			t.Errorf("%+v: no bar was shown:\n%q", test, all)
		}
		lines := shown(t, all)
		text := strings.Join(lines, "\n")
		if strings.Contains(text, "/40") || strings.Contains(text, "[#") {
			t.Errorf("%+v: the bar is left behind:\n%s", test, text)
		}
		for n := 1; n <= 40; n++ {
			if begin := fmt.Sprintf("pc-%04d (127.123.210.%d):", n, n); test.columns >= 40 && !strings.Contains("\n"+text, "\n"+begin) {
				t.Errorf("%+v: the line of PC %d is torn or missing:\n%s", test, n, text)
			}
		}
		for _, line := range lines {
			if layout.Columns(line) > test.columns && !strings.Contains(line, "DCMAMT.LOG") {
				t.Errorf("%+v: %d columns are taken by %q", test, layout.Columns(line), line)
			}
		}
		// Each drawing of the bar, not only the last; the terminal's last column stays free.
		for _, line := range regexp.MustCompile(`[^\r\n]*\d+/40[^\r\n]*`).FindAllString(all, -1) {
			if n := layout.Columns(escapes.ReplaceAllString(line, "")); n >= test.columns {
				t.Errorf("%+v: the bar takes %d columns: %q", test, n, line)
			}
		}
	}
}

// Ctrl-C: what is said about it stands above the bar, and the bar goes in the end.
func TestBarInterrupted(t *testing.T) {
	t.Parallel()
	list, config := startSimulator(t, "--devices", "40", "--network", "127.123.211.1", "--latency", "60ms")
	sent := false
	all, exit := runOnTerminal(t, 80, nil, func(all string, terminal *os.File) {
		if !sent && strings.Contains(all, "/40  failed") {
			sent = true
			terminal.WriteString("\x03")
		}
	}, "/f", list, "--config", config, "--parallel", "4")
	if exit != exitOther || !sent {
		t.Fatalf("exit code %d; interrupted: %v\n%s", exit, sent, all)
	}
	text := strings.Join(shown(t, all), "\n")
	if !strings.Contains(all, "^C") {
		t.Errorf("the terminal does not echo, so this test shows less:\n%q", all)
	}
	if strings.Contains(text, "/40  failed") || strings.Contains(text, "[") {
		t.Errorf("the bar is left behind:\n%s", text)
	}
	if n := strings.Count("\n"+text, "\ndcmamtin: interrupted"); n != 2 {
		t.Errorf("%d whole lines about the interrupt, want 2:\n%s", n, text)
	}
}

// With --json into a file nothing but the bar is on the terminal, and nothing of it in the file.
func TestBarBesideJSON(t *testing.T) {
	t.Parallel()
	list, config := startSimulator(t, "--devices", "20", "--network", "127.123.212.1", "--latency", "60ms")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	all, exit := runOnTerminal(t, 80, out, nil, "/f", list, "--config", config, "--json", "--parallel", "4")
	if exit != 0 || !strings.Contains(all, "/20  failed 0") {
		t.Fatalf("exit code %d, on the terminal: %q", exit, all)
	}
	if text := strings.TrimSpace(strings.Join(shown(t, all), "\n")); text != "" {
		t.Errorf("left on the terminal: %q", text)
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	n := 0
	for s := bufio.NewScanner(out); s.Scan(); n++ {
		if !strings.HasPrefix(s.Text(), "{") || !strings.HasSuffix(s.Text(), "}") {
			t.Errorf("line %q", s.Text())
		}
	}
	if n != 21 {
		t.Errorf("%d lines, want 20 and a summary", n)
	}
}

// A terminal that cannot move its cursor, one that is too narrow, and one whose user does not want the bar get none.
func TestNoBarOnTerminal(t *testing.T) {
	t.Parallel()
	list, config := startSimulator(t, "--devices", "8", "--network", "127.123.213.1", "--latency", "60ms")
	for _, test := range []struct {
		kind    string
		columns uint16
		option  string
	}{{"dumb", 80, "auto"}, {"", 80, "auto"}, {"xterm", 19, "auto"}, {"xterm", 0, "auto"}, {"xterm", 80, "plain"}, {"xterm", 80, "none"}} {
		all, exit := runOnTerminalKind(t, test.kind, test.columns, nil, nil, "/f", list, "--config", config, "--progress", test.option, "--parallel", "4")
		if exit != 0 || strings.Contains(all, "\x1b") || strings.Contains(all, "/8 ") {
			t.Errorf("%+v: exit code %d:\n%q", test, exit, all)
		}
	}
}
