// Package play drives the real programs as separate processes: simulated PCs, a manager, clients, dcmamtin. The end
// to end tests and the story of `make run` are written with it. It imports nothing of the product, so it sees only
// what a user sees: commands, exit codes, files and what is printed.
package play

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// AMT management user and password of every simulated PC.
const (
	User     = "admin"
	Password = "P@ssw0rd!"
)

// ready bounds how long a program may take to start listening.
const ready = 30 * time.Second

// Stage is a set of programs that run together, with a folder of their own.
type Stage struct {
	Dir string   // everything is written below it
	Bin string   // where the programs are
	Net int      // third octet of the simulated PCs' addresses, so that stages do not meet
	Env []string // set for every program, beside the caller's environment

	mu      sync.Mutex
	running []*Process
}

// Process is a program that runs until it is stopped.
type Process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error
}

// Start runs a program in the background; what it prints goes to a file in the stage's folder.
func (s *Stage) Start(program string, args ...string) (*Process, error) {
	cmd := exec.Command(filepath.Join(s.Bin, program), args...)
	cmd.Dir = s.Dir
	cmd.Env = append(environment(), s.Env...)
	return s.launch(cmd)
}

func (s *Stage) launch(cmd *exec.Cmd) (*Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := filepath.Join(s.Dir, fmt.Sprintf("%s-%d.log", filepath.Base(cmd.Path), len(s.running)))
	log, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		log.Close()
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		log.Close()
		close(p.done)
	}()
	s.running = append(s.running, p)
	return p, nil
}

// environment is the caller's without proxies: everything here is on this machine.
func environment() []string {
	var env []string
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			env = append(env, e)
		}
	}
	return append(env, "LC_ALL=C.UTF-8")
}

// Pid of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Stop asks the process to end (SIGTERM) and waits; after ten seconds it is killed, which is an error.
func (p *Process) Stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(10 * time.Second):
		p.Kill()
		return fmt.Errorf("%s did not end on SIGTERM within 10 s", p.cmd.Path)
	}
}

// Kill ends the process at once (SIGKILL).
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Output is what the process has printed so far.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Until waits for a line of output.
func (p *Process) Until(line string) error {
	return p.until(func() bool { return strings.Contains("\n"+p.Output(), "\n"+line+"\n") }, "to print "+strconv.Quote(line))
}

// UntilSays waits until something that it printed contains the text.
func (p *Process) UntilSays(text string) error {
	return p.until(func() bool { return strings.Contains(p.Output(), text) }, "to say "+strconv.Quote(text))
}

func (p *Process) until(holds func() bool, what string) error {
	deadline := time.After(ready)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		if holds() {
			return nil
		}
		select {
		case <-poll.C:
		case <-p.done:
			return fmt.Errorf("%s ended (%v) before it was ready: %s", filepath.Base(p.cmd.Path), p.err, p.Output())
		case <-deadline:
			return fmt.Errorf("waited %v for %s %s: %s", ready, filepath.Base(p.cmd.Path), what, p.Output())
		}
	}
}

// Close stops everything that still runs, the last started first.
func (s *Stage) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for i := len(s.running) - 1; i >= 0; i-- {
		select {
		case <-s.running[i].done:
		default:
			if err := s.running[i].Stop(); err != nil {
				errs = append(errs, err)
			}
		}
	}
	s.running = nil
	return errors.Join(errs...)
}

// Result is what a command that ended left behind.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Run runs a command to its end. An exit code other than 0 is a Result, not an error.
func (s *Stage) Run(program string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, program), args...)
	cmd.Dir = s.Dir
	cmd.Env = append(environment(), s.Env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errOut.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("%s %s: no end after 2 minutes", program, strings.Join(args, " "))
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		return r, err
	}
	return r, nil
}

// Must runs a command that has to end with exit code 0.
func (s *Stage) Must(program string, args ...string) (Result, error) {
	r, err := s.Run(program, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s %s: exit code %d\n%s%s", program, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r, err
}

// Firmware is a running amtsim.
type Firmware struct {
	*Process
	stage      *Stage
	control    string
	SystemFile string // system configuration information file of its PCs
}

// StartFirmware starts n simulated PCs.
func (s *Stage) StartFirmware(n int, args ...string) (*Firmware, error) {
	control := s.service(2)
	f := &Firmware{stage: s, control: control, SystemFile: filepath.Join(s.Dir, "NETM.NDD")}
	var err error
	f.Process, err = s.Start("amtsim", append([]string{
		"--devices", strconv.Itoa(n), "--network", s.network(1), "--local", s.local(1),
		"--user", User, "--password", Password, "--control", control, "--system-file", f.SystemFile,
		"--state", filepath.Join(s.Dir, "firmware")}, args...)...)
	if err != nil {
		return nil, err
	}
	return f, f.Until("ready")
}

// NetworkAddress is what a manager reaches PC i (from 1) at.
func (s *Stage) NetworkAddress(i int) string { return s.network(i) }

func (s *Stage) network(i int) string { return fmt.Sprintf("127.116.%d.%d", s.Net, i) }
func (s *Stage) local(i int) string   { return fmt.Sprintf("127.117.%d.%d", s.Net, i) }

// Service is an address of the stage's own for a test that serves something itself.
func (s *Stage) Service() string { return s.service(3) }

// service is an address of the stage's own for the i-th program that serves. A free port of 127.0.0.1 would not do: until
// the program listens on it, any connection that is made on this machine may take it.
func (s *Stage) service(i int) string { return fmt.Sprintf("127.115.%d.%d:8740", s.Net, i) }

// Faults sets the fault switches of PC i, replacing those before; an empty object clears them.
func (f *Firmware) Faults(i int, faults string) error {
	return f.call(http.MethodPut, i, "/faults", faults, nil)
}

// Unprovision does a full unprovision of PC i.
func (f *Firmware) Unprovision(i int) error {
	return f.call(http.MethodPost, i, "/unprovision", "", nil)
}

// Restart restarts the firmware of PC i.
func (f *Firmware) Restart(i int) error { return f.call(http.MethodPost, i, "/restart", "", nil) }

// Device is what amtsim tells of one of its PCs.
type Device struct {
	Calls  map[string]int `json:"calls"` // by method
	Blocks []struct {
		Handle  int    `json:"handle"`
		Owner   int    `json:"owner"` // handle of an application
		Written bool   `json:"written"`
		Data    []byte `json:"data"`
	} `json:"blocks"`
	Applications []Application `json:"applications"`
}

// Application is a program that is registered in a PC's AMT.
type Application struct {
	Handle      int    `json:"handle"`
	Vendor      string `json:"vendor"`
	Application string `json:"application"`
	Enterprise  string `json:"enterprise"`
}

// Device reads the state of PC i.
func (f *Firmware) Device(i int) (Device, error) {
	var d Device
	err := f.call(http.MethodGet, i, "", "", &d)
	return d, err
}

func (f *Firmware) call(method string, i int, path, body string, into any) error {
	req, err := http.NewRequest(method, fmt.Sprintf("http://%s/devices/%d%s", f.control, i, path), strings.NewReader(body))
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s device %d%s: HTTP %d %s", method, i, path, res.StatusCode, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// Manager is a managing server: its configuration, and the process while it serves.
type Manager struct {
	*Process
	stage     *Stage
	Config    string
	CAFile    string
	TokenFile string
	Listen    string
}

// InitManager makes a manager's data folder and writes the AMT management user into its configuration. Further arguments
// are init's.
func (s *Stage) InitManager(args ...string) (*Manager, error) {
	listen := s.service(1)
	r, err := s.Must("samehost-manager", append([]string{"init", "--data-dir", filepath.Join(s.Dir, "manager"), "--listen", listen, "--json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var made struct {
		Config string `json:"config"`
		CAFile string `json:"ca_file"`
		Token  string `json:"token"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &made); err != nil {
		return nil, fmt.Errorf("init --json printed %q: %w", r.Stdout, err)
	}
	m := &Manager{stage: s, Config: made.Config, CAFile: made.CAFile, Listen: listen, TokenFile: filepath.Join(s.Dir, "token")}
	if err := os.WriteFile(m.TokenFile, []byte(made.Token+"\n"), 0o600); err != nil {
		return nil, err
	}
	password := filepath.Join(s.Dir, "amt-password")
	if err := os.WriteFile(password, []byte(Password+"\n"), 0o600); err != nil {
		return nil, err
	}
	config, err := os.ReadFile(m.Config)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(config, []byte("\n[amt]")) {
		return nil, fmt.Errorf("%s has an [amt] table already", m.Config)
	}
	config = append(config, fmt.Sprintf("\n[amt]\nuser = %q\npassword_file = %q\n", User, password)...)
	return m, os.WriteFile(m.Config, config, 0o600)
}

// Serve starts the manager and waits until it answers.
func (m *Manager) Serve() error {
	var err error
	if m.Process, err = m.stage.Start("samehost-manager", "serve", "--config", m.Config); err != nil {
		return err
	}
	return m.until(func() bool {
		c, err := net.DialTimeout("tcp", m.Listen, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, "to listen on "+m.Listen)
}

// Command runs a samehost-manager command with this manager's configuration.
func (m *Manager) Command(args ...string) (Result, error) {
	return m.stage.Must("samehost-manager", append(args, "--config", m.Config)...)
}

// Asset is a line of `assets --json`.
type Asset struct {
	HostID      string   `json:"host_id"`
	HostIDs     []string `json:"host_ids"`
	Conflicts   int      `json:"conflicts"`
	Name        string   `json:"name"`
	State       string   `json:"state"`
	Initialized any      `json:"initialized"`
	LastCheckin string   `json:"last_checkin"`
}

// Assets lists the manager's assets.
func (m *Manager) Assets() ([]Asset, error) {
	r, err := m.Command("assets", "--json")
	if err != nil {
		return nil, err
	}
	var list []Asset
	lines := bufio.NewScanner(strings.NewReader(r.Stdout))
	for lines.Scan() {
		var a Asset
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return nil, fmt.Errorf("assets --json printed %q: %w", lines.Text(), err)
		}
		list = append(list, a)
	}
	return list, lines.Err()
}

// Dcmamtin runs dcmamtin with the manager's configuration.
func (m *Manager) Dcmamtin(args ...string) (Result, error) {
	return m.stage.Run("dcmamtin", append(args, "--config", m.Config)...)
}

// Relay is a relay system below the manager.
type Relay struct {
	*Process
	Config string
	Listen string
}

// StartRelay starts a relay below the manager and waits until it takes check-ins.
func (m *Manager) StartRelay() (*Relay, error) {
	s := m.stage
	dir := filepath.Join(s.Dir, "relay")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := &Relay{Config: filepath.Join(dir, "relay.toml"), Listen: s.service(5)}
	address, _, err := net.SplitHostPort(r.Listen)
	if err != nil {
		return nil, err
	}
	token, err := m.Command("token", "create", "--relay", "--name", address)
	if err != nil {
		return nil, err
	}
	facts, err := json.Marshal(Hardware{
		SystemUUID: fmt.Sprintf("4c4c4544-00%02x-4d10-81ff-b4c04f5a31ff", s.Net), SystemSerial: fmt.Sprintf("SYS%03drelay", s.Net),
		BoardSerial: fmt.Sprintf("BRD%03drelay", s.Net), ChassisSerial: fmt.Sprintf("CHS%03drelay", s.Net),
		Disks: []Disk{{fmt.Sprintf("DSK%03drelay", s.Net), true}}, NICs: []NIC{},
	})
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("data_dir = \"data\"\nlisten = %q\nhigher_system = \"https://%s\"\nca_file = %q\nenrolment_token_file = \"token\"\n\n[hardware]\nfile = \"hardware.json\"\n", r.Listen, m.Listen, m.CAFile)
	err = errors.Join(os.WriteFile(filepath.Join(dir, "token"), []byte(token.Stdout), 0o600),
		os.WriteFile(filepath.Join(dir, "hardware.json"), facts, 0o644), os.WriteFile(r.Config, []byte(config), 0o600))
	if err != nil {
		return nil, err
	}
	if r.Process, err = s.Start("samehost-relay", "serve", "--config", r.Config); err != nil {
		return nil, err
	}
	return r, r.UntilSays("listening on https://" + r.Listen)
}

// PC is a simulated PC: hardware, a disk, and the client's configuration. Its exported fields may be changed, to swap a
// board or to start from another disk; Configure and WriteHardware make it so.
type PC struct {
	stage    *Stage
	I        int // from 1
	Config   string
	Hardware Hardware
	hardware string

	DataDir      string // the disk
	Firmware     int    // the board's AMT, as amtsim counts; 0: the client has no [amt] table
	HigherSystem string // ADDRESS:PORT
	CAFile       string
	TokenFile    string
}

// Hardware is what the client finds out about its PC.
type Hardware struct {
	SystemUUID    string `json:"system_uuid"`
	SystemSerial  string `json:"system_serial"`
	BoardSerial   string `json:"board_serial"`
	ChassisSerial string `json:"chassis_serial"`
	Disks         []Disk `json:"disks"`
	NICs          []NIC  `json:"nics"`
	TPMEKSHA256   string `json:"tpm_ek_sha256"`
	SMBIOSAMT     bool   `json:"smbios_amt"`
}

// Disk of a PC.
type Disk struct {
	Serial string `json:"serial"`
	System bool   `json:"system"`
}

// NIC of a PC.
type NIC struct {
	MAC       string `json:"mac"`
	Permanent bool   `json:"permanent"`
	Onboard   bool   `json:"onboard"`
}

// PC makes the PC that sits at the simulated firmware i (from 1) and reports to the manager.
func (m *Manager) PC(i int) (*PC, error) {
	s := m.stage
	dir := filepath.Join(s.Dir, fmt.Sprintf("pc-%02d", i))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	pc := &PC{stage: s, I: i, Config: filepath.Join(dir, "client.toml"), DataDir: filepath.Join(dir, "disk"), hardware: filepath.Join(dir, "hardware.json"),
		Firmware: i, HigherSystem: m.Listen, CAFile: m.CAFile, TokenFile: m.TokenFile,
		Hardware: Hardware{
			SystemUUID:    fmt.Sprintf("4c4c4544-00%02x-4d10-80%02x-b4c04f5a31%02x", s.Net, i%256, i%256),
			SystemSerial:  fmt.Sprintf("SYS%03d%03d", s.Net, i),
			BoardSerial:   fmt.Sprintf("BRD%03d%03d", s.Net, i),
			ChassisSerial: fmt.Sprintf("CHS%03d%03d", s.Net, i),
			Disks:         []Disk{{fmt.Sprintf("DSK%03d%03dA", s.Net, i), true}},
			NICs:          []NIC{{fmt.Sprintf("00-1B-21-%02X-%02X-%02X", s.Net, i/256, i%256), true, true}},
			SMBIOSAMT:     true,
		}}
	if err := os.WriteFile(pc.amtPassword(), []byte(Password+"\n"), 0o600); err != nil {
		return nil, err
	}
	return pc, errors.Join(pc.Configure(), pc.WriteHardware())
}

func (pc *PC) amtPassword() string { return filepath.Join(filepath.Dir(pc.Config), "amt-password") }

// Configure writes the client's configuration.
func (pc *PC) Configure() error {
	config := fmt.Sprintf("data_dir = %q\nhigher_system = \"https://%s\"\nca_file = %q\nenrolment_token_file = %q\nrestore_wait = \"1s\"\n\n[hardware]\nfile = %q\n",
		pc.DataDir, pc.HigherSystem, pc.CAFile, pc.TokenFile, pc.hardware)
	if pc.Firmware != 0 {
		config += fmt.Sprintf("\n[amt]\nurl = \"http://%s:16992\"\nuser = %q\npassword_file = %q\n", pc.stage.local(pc.Firmware), User, pc.amtPassword())
	}
	return os.WriteFile(pc.Config, []byte(config), 0o600)
}

// CopyDisk makes the PC's disk a copy of that of another PC, as an imaging tool does.
func (pc *PC) CopyDisk(from *PC) error {
	if err := os.RemoveAll(pc.DataDir); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", from.DataDir, pc.DataDir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from.DataDir, err, out)
	}
	return nil
}

// WriteHardware makes the PC's hardware what pc.Hardware says.
func (pc *PC) WriteHardware() error {
	b, err := json.Marshal(pc.Hardware)
	if err != nil {
		return err
	}
	return os.WriteFile(pc.hardware, b, 0o644)
}

// DiskFailure takes the disk away with all that was on it and puts an empty one in.
func (pc *PC) DiskFailure() error {
	serial := pc.Hardware.Disks[0].Serial
	pc.Hardware.Disks[0].Serial = serial[:len(serial)-1] + string(serial[len(serial)-1]+1)
	if err := pc.WriteHardware(); err != nil {
		return err
	}
	return os.RemoveAll(pc.DataDir)
}

// Format takes away all that was on the disk, as reinstalling the operating system does.
func (pc *PC) Format() error { return os.RemoveAll(pc.DataDir) }

// Identity is what `install --json` and `status --json` print.
type Identity struct {
	HostID      string       `json:"host_id"`
	Origin      string       `json:"origin"`
	Stores      []StoreState `json:"stores"`
	LastCheckin any          `json:"last_checkin"`
}

// StoreState is one of an identity's stores.
type StoreState struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Error string `json:"last_error"`
}

// Store is the state of the store of that name.
func (i Identity) Store(name string) StoreState {
	for _, s := range i.Stores {
		if s.Name == name {
			return s
		}
	}
	return StoreState{}
}

// Install installs the client.
func (pc *PC) Install() (Identity, error) { return pc.identity("install", "--no-service", "--json") }

// Status asks for the client's state.
func (pc *PC) Status() (Identity, error) { return pc.identity("status", "--json") }

// CheckIn does one check-in.
func (pc *PC) CheckIn() (Result, error) {
	return pc.stage.Must("samehost-client", "checkin", "--config", pc.Config)
}

// Serve starts the client's service.
func (pc *PC) Serve() (*Process, error) {
	return pc.stage.Start("samehost-client", "run", "--config", pc.Config)
}

// Command runs a samehost-client command on this PC, whatever its exit code.
func (pc *PC) Command(args ...string) (Result, error) {
	return pc.stage.Run("samehost-client", append(args, "--config", pc.Config)...)
}

func (pc *PC) identity(args ...string) (Identity, error) {
	var id Identity
	r, err := pc.stage.Must("samehost-client", append(args, "--config", pc.Config)...)
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal([]byte(r.Stdout), &id); err != nil {
		return id, fmt.Errorf("%s printed %q: %w", strings.Join(args, " "), r.Stdout, err)
	}
	return id, nil
}

// UntilAlias waits until the manager lists both host IDs under one asset.
func (m *Manager) UntilAlias(old, new string) error {
	var last []Asset
	var failed error
	err := m.until(func() bool {
		last, failed = m.Assets()
		for _, a := range last {
			if slices.Contains(a.HostIDs, old) && slices.Contains(a.HostIDs, new) {
				return true
			}
		}
		return failed != nil
	}, fmt.Sprintf("to list %s and %s as one asset", old, new))
	if failed != nil {
		return failed
	}
	return err
}

// UntilAssets waits until the manager lists n assets.
func (m *Manager) UntilAssets(n int) error {
	var failed error
	err := m.until(func() bool {
		var list []Asset
		list, failed = m.Assets()
		return failed != nil || len(list) == n
	}, fmt.Sprintf("to list %d assets", n))
	return errors.Join(failed, err)
}

// UntilStored waits until the client says that its AMT holds the host ID ("": whichever it has).
func (pc *PC) UntilStored(hostID string) error {
	deadline := time.Now().Add(ready)
	for {
		id, err := pc.Status()
		if err == nil && id.HostID != "" && (hostID == "" || id.HostID == hostID) && id.Store("amt").State == "stored" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v for AMT to hold %s: %+v, %v", ready, hostID, id, err)
		}
		time.Sleep(50 * time.Millisecond) // a poll of another process's state
	}
}

// Corrupt spoils the record in every block of PC i.
func (f *Firmware) Corrupt(i int) error {
	d, err := f.Device(i)
	if err != nil {
		return err
	}
	spoilt := 0
	for _, b := range d.Blocks {
		if !b.Written {
			continue
		}
		if err := f.call(http.MethodPut, i, fmt.Sprintf("/blocks/%d?offset=40", b.Handle), "spoilt", nil); err != nil {
			return err
		}
		spoilt++
	}
	if spoilt == 0 {
		return fmt.Errorf("device %d has no written block to spoil", i)
	}
	return nil
}

// Provision sets PC i up again after a full unprovision.
func (f *Firmware) Provision(i int) error { return f.call(http.MethodPost, i, "/provision", "", nil) }

// RemoveEnterprise does what an administrator with another tool would: remove every registered application from the
// AMT of PC i, and then its enterprise entries, which cannot be removed before.
func (f *Firmware) RemoveEnterprise(i int) error {
	const class = "AMT_ThirdPartyDataStorageAdministrationService"
	for _, list := range []struct{ enumerate, handles, remove string }{
		{"AdminGetRegisteredApplications", "ApplicationHandles", "AdminRemoveApplication"},
		{"EnumerateStorageEaclEntries", "Handles", "RemoveStorageEaclEntry"},
	} {
		answer, err := f.invoke(i, class, list.enumerate, "")
		if err != nil {
			return err
		}
		found := regexp.MustCompile("<g:"+list.handles+">(\\d+)<").FindAllStringSubmatch(answer, -1)
		if len(found) == 0 {
			return fmt.Errorf("%s lists nothing to remove: %s", list.enumerate, answer)
		}
		for _, handle := range found {
			answer, err := f.invoke(i, class, list.remove, "<r:Handle>"+handle[1]+"</r:Handle>")
			if err != nil {
				return err
			}
			if !strings.Contains(answer, "<g:ReturnValue>0<") {
				return fmt.Errorf("%s: %s", list.remove, answer)
			}
		}
	}
	return nil
}

// RegisterOther does what another program on PC i would: register itself under an enterprise, and keep data in a block.
func (f *Firmware) RegisterOther(i int, vendor, application, enterprise string, data []byte) error {
	call := func(method, inputs, output string) (string, error) {
		answer, err := f.invokeAt(f.stage.local(i), "AMT_ThirdPartyDataStorageService", method, inputs)
		if err != nil {
			return "", err
		}
		found := regexp.MustCompile("<g:" + output + ">([^<]*)<").FindStringSubmatch(answer)
		if len(found) == 0 || !strings.Contains(answer, "<g:ReturnValue>0<") {
			return "", fmt.Errorf("%s: %s", method, answer)
		}
		return found[1], nil
	}
	session, err := call("RegisterApplication", "<r:CallerUUID>0123456789ABCDEF0123456789ABCDEF</r:CallerUUID><r:VendorName>"+vendor+"</r:VendorName><r:ApplicationName>"+
		application+"</r:ApplicationName><r:EnterpriseName>"+enterprise+"</r:EnterpriseName>", "SessionHandle")
	if err != nil {
		return err
	}
	session = "<r:SessionHandle>" + session + "</r:SessionHandle>"
	block, err := call("AllocateBlock", session+"<r:BytesRequested>4096</r:BytesRequested><r:BlockHidden>false</r:BlockHidden><r:BlockName>vault</r:BlockName>", "BlockHandle")
	if err != nil {
		return err
	}
	_, err = call("WriteBlock", session+"<r:BlockHandle>"+block+"</r:BlockHandle><r:ByteOffset>0</r:ByteOffset><r:Data>"+base64.StdEncoding.EncodeToString(data)+"</r:Data>", "BytesWritten")
	return err
}

// invoke calls a method of PC i's AMT over the network, with curl.
func (f *Firmware) invoke(i int, class, method, inputs string) (string, error) {
	return f.invokeAt(f.stage.network(i), class, method, inputs)
}

func (f *Firmware) invokeAt(address, class, method, inputs string) (string, error) {
	uri := "http://intel.com/wbem/wscim/1/amt-schema/1/" + class
	body := `<?xml version="1.0"?><Envelope xmlns="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><Header><a:Action>` +
		uri + "/" + method + `</a:Action><a:To>/wsman</a:To><w:ResourceURI>` + uri + `</w:ResourceURI><a:MessageID>1</a:MessageID><a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo></Header><Body><r:` +
		method + `_INPUT xmlns:r="` + uri + `">` + inputs + "</r:" + method + "_INPUT></Body></Envelope>"
	bodyFile := filepath.Join(f.stage.Dir, "request.xml")
	if err := os.WriteFile(bodyFile, []byte(body), 0o600); err != nil {
		return "", err
	}
	cmd := exec.Command("curl", "--silent", "--show-error", "--fail-with-body", "--digest", "--max-time", "30", "--config", "-",
		"--data-binary", "@"+bodyFile, "http://"+address+":16992/wsman")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("user = \"%s:%s\"\n", User, Password))
	cmd.Env = environment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s with curl: %w: %s", method, err, out)
	}
	return string(out), nil
}
