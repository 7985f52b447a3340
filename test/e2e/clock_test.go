package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/test/play"
)

// Two PCs that live side by side under one host ID show after two minutes, an asset counts as silent after three quarters of
// an hour, and a PC may be away for a week. No test can wait that long, so samehost-client and samehost-manager are built
// once more with a clock that the test sets forward for both at once. The clock exists nowhere in the tree: the
// compiler is given the lines that read the time in another form (go build -overlay), so no program that anybody
// installs can have it. Everything else is the real program.

const clockSource = `package %s

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// ahead is how far the test has set this process's clock forward.
func ahead() time.Duration {
	b, err := os.ReadFile(os.Getenv("E2E_CLOCK"))
	if err != nil {
		panic(err)
	}
	ms, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		panic(err)
	}
	return time.Duration(ms) * time.Millisecond
}
`

// clocked are the places where the programs read the time that decides.
var clocked = []struct{ folder, file, line, instead string }{
	{"agent", "os_linux.go", "return time.Duration(ts.Nano())", "return time.Duration(ts.Nano()) + ahead()"},
	{"registry", "registry.go", "r.now = time.Now\n", "r.now = func() time.Time { return time.Now().Add(ahead()) }\n"},
	// A simulated PC has a loopback address, which leads nowhere from elsewhere and is not reported. E2E_ADDRESS is one that is.
	{"agent", "machine.go", "first := sourceAddress(higherSystem)\n", "first := sourceAddress(higherSystem)\n\tif a, err := netip.ParseAddr(os.Getenv(\"E2E_ADDRESS\")); err == nil {\n\t\tlist = append(list, a)\n\t}\n"},
}

var buildClocked = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(bin, "clocked")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for _, c := range clocked {
		folder, err := filepath.Abs(filepath.Join("..", "..", "internal", c.folder))
		if err != nil {
			return "", err
		}
		source, err := os.ReadFile(filepath.Join(folder, c.file))
		if err != nil {
			return "", err
		}
		if n := strings.Count(string(source), c.line); n != 1 {
			return "", fmt.Errorf("%s has %q %d times, want once: this test sets the clock there", c.file, c.line, n)
		}
		for name, text := range map[string]string{
			c.file:        strings.Replace(string(source), c.line, c.instead, 1),
			"e2eclock.go": fmt.Sprintf(clockSource, c.folder),
		} {
			instead := filepath.Join(dir, c.folder+"-"+name)
			if err := os.WriteFile(instead, []byte(text), 0o644); err != nil {
				return "", err
			}
			replace[filepath.Join(folder, name)] = instead
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, b, 0o644); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-o", dir, "samehost/cmd/samehost-client", "samehost/cmd/samehost-manager")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build with a clock: %w\n%s", err, out)
	}
	return dir, errors.Join(os.Link(filepath.Join(bin, "amtsim"), filepath.Join(dir, "amtsim")), os.Link(filepath.Join(bin, "dcmamtin"), filepath.Join(dir, "dcmamtin")))
})

// clockedWorld is a world whose clock the test sets forward with pass. Without devices it has no firmware.
func clockedWorld(t *testing.T, devices int) *world {
	t.Helper()
	t.Parallel()
	dir, err := buildClocked()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, stage: &play.Stage{Dir: t.TempDir(), Bin: dir, Net: 9 + int(stages.Add(1))}}
	w.stage.Env = []string{"E2E_CLOCK=" + w.clock()}
	w.pass(0)
	t.Cleanup(func() {
		if err := w.stage.Close(); err != nil {
			t.Error(err)
		}
	})
	if devices > 0 {
		w.firmware, err = w.stage.StartFirmware(devices)
		w.must(err)
	}
	w.manager, err = w.stage.InitManager()
	w.must(err)
	w.must(w.manager.Serve())
	return w
}

func (w *world) clock() string { return filepath.Join(w.stage.Dir, "clock") }

// pass lets time go by for the manager and all clients.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	var ahead int64
	if b, err := os.ReadFile(w.clock()); err == nil {
		ahead, err = strconv.ParseInt(string(b), 10, 64)
		w.must(err)
	}
	next := w.clock() + ".next"
	w.must(os.WriteFile(next, strconv.AppendInt(nil, ahead+d.Milliseconds(), 10), 0o644))
	w.must(os.Rename(next, w.clock()))
}
