package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/test/play"
)

// routeOfRun and run are what the API tells of a run.
type routeOfRun struct {
	Route   string         `json:"route"`
	Relay   string         `json:"relay"`
	State   string         `json:"state"`
	Targets int            `json:"targets"`
	Done    int            `json:"done"`
	Reasons map[string]int `json:"reasons"`
}

type run struct {
	ID          int64          `json:"id"`
	Version     int64          `json:"version"`
	Ended       *time.Time     `json:"ended"`
	Cancelled   *time.Time     `json:"cancelled"`
	Targets     int            `json:"targets"`
	Done        int            `json:"done"`
	Initialized int            `json:"initialized"`
	Already     int            `json:"already_initialized"`
	Failed      int            `json:"failed"`
	Reasons     map[string]int `json:"reasons"`
	Routes      []routeOfRun   `json:"routes"`
	Remarks     []string       `json:"remarks"`
}

func (r run) route(relay string) routeOfRun {
	for _, route := range r.Routes {
		if route.Relay == relay {
			return route
		}
	}
	return routeOfRun{}
}

// site is a relay system of a test.
type site struct {
	*play.Process
	w      *world
	config string
	listen string
	hostID string
}

// relay starts a relay system that reports to the manager. Its hardware is its own: both are this machine.
func (w *world) relay(i int, listen string) *site {
	w.t.Helper()
	name := fmt.Sprintf("relay%d", i)
	dir := filepath.Join(w.stage.Dir, name)
	w.must(os.MkdirAll(dir, 0o700))
	r, err := w.manager.Command("token", "create", "--relay", "--name", listen[:strings.LastIndex(listen, ":")], "--json")
	w.must(err)
	var made struct {
		Token string `json:"token"`
	}
	w.must(json.Unmarshal([]byte(r.Stdout), &made))
	s := &site{w: w, config: filepath.Join(dir, "relay.toml"), listen: listen}
	for file, text := range map[string]string{
		"token":        made.Token + "\n",
		"amt-password": play.Password,
		"hardware.json": fmt.Sprintf(`{"system_uuid": "5a5e0000-0000-4000-8000-00000000000%d", "system_serial": "R%d", "board_serial": "RB%d", "chassis_serial": "RC%d",
			"disks": [{"serial": "RD%d", "system": true}], "nics": [{"mac": "00-1B-21-AA-00-0%d", "permanent": true, "onboard": true}]}`, i, i, i, i, i, i),
		"relay.toml": fmt.Sprintf("data_dir = %q\nlisten = %q\nhigher_system = %q\nca_file = %q\nenrolment_token_file = \"token\"\n[amt]\npassword_file = \"amt-password\"\n[dcmamtin]\nresolve = \"file\"\n[hardware]\nfile = \"hardware.json\"\n",
			filepath.Join(dir, "data"), listen, "https://"+w.manager.Listen, w.manager.CAFile),
	} {
		w.must(os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	s.serve()
	for deadline := time.Now().Add(time.Minute); s.hostID == ""; time.Sleep(100 * time.Millisecond) { // a poll of another process
		if time.Now().After(deadline) {
			w.t.Fatalf("%s has no host ID: %s", name, r.Stdout)
		}
		r, err = w.stage.Must("samehost-relay", "status", "--config", s.config, "--json")
		w.must(err)
		var status struct {
			HostID string `json:"host_id"`
		}
		w.must(json.Unmarshal([]byte(r.Stdout), &status))
		s.hostID = status.HostID
	}
	return s
}

func (s *site) serve() {
	s.w.t.Helper()
	var err error
	s.Process, err = s.w.stage.Start("samehost-relay", "serve", "--config", s.config)
	s.w.must(err)
	s.w.must(s.UntilSays("listening on https://"))
}

// api returns a function that asks the manager's API about runs, as its administrator.
func (w *world) api() (ask func(method, path string, in, out any)) {
	w.t.Helper()
	ca, err := os.ReadFile(w.manager.CAFile)
	w.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	password, err := os.ReadFile(filepath.Join(filepath.Dir(w.manager.CAFile), "admin-password"))
	w.must(err)
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return func(method, path string, in, out any) {
		w.t.Helper()
		b, err := json.Marshal(in)
		w.must(err)
		req, err := http.NewRequest(method, "https://"+w.manager.Listen+"/api/v1/initializations"+path, strings.NewReader(string(b)))
		w.must(err)
		req.Header.Set("Content-Type", "application/json")
		req.SetBasicAuth("admin", strings.TrimSpace(string(password)))
		res, err := client.Do(req)
		w.must(err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		w.must(err)
		if res.StatusCode/100 != 2 {
			w.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, text)
		}
		w.must(json.Unmarshal(text, out))
	}
}

// An initialization of 3,000 PCs over the manager and two relays, one relay killed in the middle: every PC is done once, by the
// system that it is to be done by; what is told meanwhile is right, and so are the reasons in the end.
func TestInitializationOverRelays(t *testing.T) {
	const company, parallel = 3000, 50
	ailments := map[int]struct{ fault, reason string }{
		20: {`{"refuse": true}`, "nothing-answers"},
		60: {`{"password": "Another1!"}`, "log-on-refused"},
		80: {`{"full_eacl": true}`, "eacl-full"},
	}
	t.Parallel()
	w := &world{t: t, stage: &play.Stage{Dir: t.TempDir(), Bin: bin, Net: 9 + int(stages.Add(1))}}
	t.Cleanup(func() {
		if err := w.stage.Close(); err != nil {
			t.Error(err)
		}
	})
	faults := make(map[string]json.RawMessage)
	for n := 1; n <= company; n++ {
		if a, ok := ailments[n%100]; ok {
			faults[fmt.Sprint(n)] = json.RawMessage(a.fault)
		}
	}
	b, err := json.Marshal(faults)
	w.must(err)
	faultsFile := filepath.Join(w.stage.Dir, "faults.json")
	w.must(os.WriteFile(faultsFile, b, 0o600))
	const network, control = "127.160.0.1", "127.161.0.1:8740"
	simulator, err := w.stage.Start("amtsim", "--devices", fmt.Sprint(company), "--network", network, "--local", "none",
		"--password", play.Password, "--faults", faultsFile, "--latency", "20ms", "--control", control)
	w.must(err)
	w.manager, err = w.stage.InitManager()
	w.must(err)
	config, err := os.OpenFile(w.manager.Config, os.O_WRONLY|os.O_APPEND, 0)
	w.must(err)
	_, err = config.WriteString("\n[dcmamtin]\nresolve = \"file\"\n")
	w.must(err)
	w.must(config.Close())
	w.must(w.manager.Serve())
	one, two := w.relay(1, "127.161.1.1:8740"), w.relay(2, "127.161.2.1:8740")
	w.must(simulator.Until("ready"))

	// A third of the PCs is behind each relay, as the file says.
	var file strings.Builder
	wanted, routes := make(map[string]string), make(map[string]string) // outcome and relay by host
	reasons := map[string]map[string]int{"": {}, one.hostID: {}, two.hostID: {}}
	all := make(map[string]int)
	address := netip.MustParseAddr(network)
	for n := 1; n <= company; n++ {
		host, relay := fmt.Sprintf("pc%04d", n), []string{"", one.hostID, two.hostID}[n%3]
		fmt.Fprintf(&file, "%s %s TYPE=client,ROOT=\\%s\n", address, host, relay)
		wanted[host], routes[host] = "initialized", relay
		if a, ok := ailments[n%100]; ok {
			wanted[host] = a.reason
			reasons[relay][a.reason]++
			all[a.reason]++
		}
		address = address.Next()
	}

	ask := w.api()
	var r run
	ask(http.MethodPost, "", map[string]any{"file": file.String(), "name": "NETM.NDD", "parallel": parallel}, &r)
	if r.Targets != company || len(r.Remarks) > 0 || len(r.Routes) != 3 {
		t.Fatalf("started: %+v", r)
	}

	killed, restarted, watched := false, false, 0
	before := r
	for r.Ended == nil {
		version := r.Version
		r = run{}
		ask(http.MethodGet, fmt.Sprintf("/%d?wait=20&version=%d", before.ID, version), nil, &r)
		watched++
		sum := 0
		for _, route := range r.Routes {
			sum += route.Done
			if was := before.route(route.Relay); route.Done < was.Done || route.Targets != company/3 {
				t.Fatalf("%d of %d are done on %s, before it were %d", route.Done, route.Targets, route.Route, was.Done)
			}
		}
		if sum != r.Done || r.Initialized+r.Failed != r.Done {
			t.Fatalf("the routes have %d of %d done: %+v", sum, r.Done, r)
		}
		for reason, n := range r.Reasons {
			if n > all[reason] {
				t.Fatalf("%d have %q, and %d will", n, reason, all[reason])
			}
		}
		switch first := r.route(one.hostID); {
		case !killed && first.Done > 50:
			if first.Done > 900 {
				t.Fatalf("the relay was too quick to be killed in the middle: %d are done", first.Done)
			}
			one.Kill()
			killed = true
		case killed && !restarted && (r.route("").Done > 500 || r.route(two.hostID).Done > 500):
			one.serve()
			restarted = true
		}
		if r.Version == version {
			t.Fatalf("nothing changes for 20 s: %+v", r)
		}
		before = r
	}
	if !killed || !restarted || watched < 10 {
		t.Errorf("killed %v, restarted %v, %d changes were told", killed, restarted, watched)
	}
	failed := company * len(ailments) / 100
	if r.Done != company || r.Initialized != company-failed || r.Failed != failed {
		t.Errorf("%d done, %d initialized, %d failed", r.Done, r.Initialized, r.Failed)
	}
	if d := cmp.Diff(all, r.Reasons); d != "" {
		t.Errorf("reasons (-want +got):\n%s", d)
	}
	for relay, want := range reasons {
		if d := cmp.Diff(want, r.route(relay).Reasons); d != "" || r.route(relay).State != "ended" {
			t.Errorf("%+v (-want +got):\n%s", r.route(relay), d)
		}
	}

	got, already := make(map[string]string), 0
	for after := int64(0); ; {
		var page struct {
			Targets []struct {
				Host    string `json:"host"`
				Outcome string `json:"outcome"`
				Route   string `json:"route"`
			} `json:"targets"`
			Next int64 `json:"next"`
		}
		ask(http.MethodGet, fmt.Sprintf("/%d/targets?limit=500&after=%d", r.ID, after), nil, &page)
		for _, target := range page.Targets {
			if got[target.Host] = target.Outcome; target.Outcome == "already" && routes[target.Host] == one.hostID {
				// The relay was killed between the PC's last answer and the journal. It found the PC done when it went on.
				got[target.Host] = "initialized"
				already++
			}
			if want := r.route(routes[target.Host]).Route; target.Route != want {
				t.Errorf("%s is on %s, want %s", target.Host, target.Route, want)
			}
		}
		if after = page.Next; after == 0 {
			break
		}
	}
	if d := cmp.Diff(wanted, got); d != "" {
		t.Errorf("outcomes (-want +got):\n%s", d)
	}

	if already != r.Already || already > 2*parallel {
		t.Errorf("%d PCs were found done, the run says %d, and no more than %d were under way", already, r.Already, parallel)
	}

	// The PCs' own word: each was added to once.
	device := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	var asking sync.WaitGroup
	numbers := make(chan int)
	for range 8 {
		asking.Go(func() {
			for n := range numbers {
				res, err := device.Get(fmt.Sprintf("http://%s/devices/%d", control, n))
				if err != nil {
					t.Error(err)
					continue
				}
				var d play.Device
				err = json.NewDecoder(res.Body).Decode(&d)
				res.Body.Close()
				want := 1
				if _, ill := ailments[n%100]; ill {
					want = 0
				}
				if added := d.Calls["AddStorageFpaclEntry"]; err != nil || added != want {
					t.Errorf("PC %d was added to %d times, want %d (%v): %v", n, added, want, err, d.Calls)
				}
			}
		})
	}
	for n := 1; n <= company; n++ {
		numbers <- n
	}
	close(numbers)
	asking.Wait()

	// What dcmamtin does at a relay reaches the manager.
	list := filepath.Join(w.stage.Dir, "site.NDD")
	w.must(os.WriteFile(list, []byte("127.160.0.20 only-at-the-site TYPE=client\n"), 0o600)) // refuses
	done, err := w.stage.Run("dcmamtin", "/f", list, "--config", two.config)
	w.must(err)
	if done.Code != 31 {
		t.Fatalf("dcmamtin: exit code %d\n%s%s", done.Code, done.Stdout, done.Stderr)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		found := false
		for _, a := range w.tell("assets", "--not-initialized") {
			if a.Name == "only-at-the-site" {
				if a.Initialization.Source != list || a.Initialization.Reason != "nothing-answers" || a.Initialization.Machine == "" {
					t.Errorf("%+v", a.Initialization)
				}
				found = true
			}
		}
		if found {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what dcmamtin did at the relay does not reach the manager")
		}
		time.Sleep(200 * time.Millisecond) // a poll of another process
	}
}
