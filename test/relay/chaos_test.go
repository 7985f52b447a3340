package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

var (
	length = flag.Duration("length", 30*time.Second, "how long TestCutAndKilled cuts and kills")
	seed   = flag.Uint64("seed", 0, "for the moments of TestCutAndKilled; 0: another each time")
)

// Addresses of the programs, and of the links between them, which the test can cut.
const (
	managerAddress = "127.148.0.1:8740"
	upperAddress   = "127.148.0.2:8740"
	lowerAddress   = "127.148.0.3:8740"
	toManager      = "127.149.0.1:8740"
	toUpper        = "127.149.0.2:8740"
	toLower        = "127.149.0.3:8740"
)

// link hands TCP connections on until it is cut.
type link struct {
	to string
	l  net.Listener

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
}

func newLink(t *testing.T, at, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", at)
	must(t, err)
	k := &link{to: to, l: l, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); k.cut() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go k.carry(in)
		}
	}()
	return k
}

func (k *link) carry(in net.Conn) {
	defer in.Close()
	out, err := net.DialTimeout("tcp", k.to, 5*time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	k.mu.Lock()
	if k.down {
		k.mu.Unlock()
		return
	}
	k.conns[in], k.conns[out] = true, true
	k.mu.Unlock()
	done := make(chan bool, 2)
	go func() { io.Copy(out, in); done <- true }()
	go func() { io.Copy(in, out); done <- true }()
	<-done
	k.mu.Lock()
	delete(k.conns, in)
	delete(k.conns, out)
	k.mu.Unlock()
}

// cut breaks every connection in the middle of whatever it carries, and lets none through until mend.
func (k *link) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = true
	for c := range k.conns {
		c.Close()
	}
	clear(k.conns)
}

func (k *link) mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = false
}

// server is a program that can be killed and started again.
type server struct {
	t      *testing.T
	name   string
	args   []string
	log    *os.File
	at     string
	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{}
	killed atomic.Bool
	most   atomic.Int64 // KiB of memory
}

func (s *server) start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Errorf("%s: %v", s.name, err)
		return
	}
	cmd, ended := s.cmd, make(chan struct{})
	s.ended = ended
	go func() {
		err := cmd.Wait()
		if !s.killed.Load() {
			s.t.Errorf("%s ended by itself: %v", s.name, err)
		}
		close(ended)
	}()
}

func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killed.Store(true)
	s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.ended
	s.killed.Store(false)
}

// memory is what the process holds, in KiB; 0 where that cannot be told.
func (s *server) memory() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n, _ := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
	return n
}

func (s *server) listens() bool {
	c, err := net.DialTimeout("tcp", s.at, time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// counter is a PC that reports as fast as it may, and counts what was acknowledged.
type counter struct {
	higher *checkin.Client
	seed   hostid.Seed
	report checkin.Report
	began  time.Time
	enrol  *checkin.EnrolmentToken

	acknowledged, deferred, resent int
	last                           checkin.ReplyStatus
}

func newCounter(n int, url string, roots *x509.CertPool, token *checkin.EnrolmentToken) (*counter, error) {
	c := &counter{seed: hostid.NewSeed(), began: time.Now(), enrol: token}
	serial := fmt.Sprintf("%012d", n)
	c.report = checkin.Report{Audience: token.Manager, HostID: hostid.NewID(), SealKey: c.seed.SealingKey().PublicKey().Bytes(),
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Origin: hostid.Generated, Names: checkin.Names{Host: "pc" + serial},
		Facts: hardware.Facts{SystemUUID: "4c4c4544-0031-4a10-8042-" + serial, BoardSerial: "B" + serial, SystemSerial: "S" + serial, ChassisSerial: "C" + serial,
			Disks: []hardware.Disk{{Serial: "D" + serial, System: true}}}}
	var err error
	c.higher, err = checkin.NewClient(checkin.ClientOptions{URL: url, RootCAs: roots, Manager: token.Manager})
	return c, err
}

// checkIn makes the next report and sends it until it is acknowledged.
func (c *counter) checkIn(ctx context.Context) error {
	c.report.Counter++
	c.report.AgeMS = uint64(time.Since(c.began).Milliseconds())
	s, err := checkin.Sign(c.report, c.seed.SigningKey(), c.enrol)
	if err != nil {
		return err
	}
	for {
		sending, cancel := context.WithTimeout(ctx, 30*time.Second)
		reply, err := c.higher.CheckIn(sending, s)
		cancel()
		switch {
		case err == nil:
			c.report.Previous = s.Digest()
			c.acknowledged++
			if c.last = reply.Status; c.last == checkin.Deferred {
				c.deferred++
			} else {
				c.enrol = nil
			}
			return nil
		case errors.Is(err, checkin.ErrRefused):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		c.resent++
		time.Sleep(50*time.Millisecond + rand.N(200*time.Millisecond))
	}
}

// Client, relay, relay and manager as real programs; links are cut and mended at random under load, relays and manager
// killed. Every check-in that was acknowledged arrives once and in its client's order: the manager finds no gap in any
// chain, however small, and no fork, and the last report of each follows the one before. Memory does not grow.
func TestCutAndKilled(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links are loopback addresses that Windows does not have, and processes end without SIGKILL")
	}
	const clients = 40
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "samehost/cmd/samehost-client", "samehost/cmd/samehost-manager", "samehost/cmd/samehost-relay")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	run := func(program string, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(dir, program), args...)
		cmd.Env = append(os.Environ(), "HTTPS_PROXY=", "https_proxy=")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", program, args, err, stderr.String())
		}
		return string(out)
	}
	host := func(address string) string { h, _, _ := net.SplitHostPort(address); return h }
	data := filepath.Join(dir, "manager")
	config := filepath.Join(data, "manager.toml")
	var made struct{ Token string }
	must(t, json.Unmarshal([]byte(run("samehost-manager", "init", "--data-dir", data, "--listen", managerAddress, "--name", host(toManager), "--json")), &made))
	token, err := checkin.ParseToken(made.Token)
	must(t, err)
	ca := filepath.Join(data, "ca.pem")
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	defer log.Close()

	facts := func(n int) string {
		path := filepath.Join(dir, fmt.Sprintf("hardware%d.json", n))
		must(t, os.WriteFile(path, []byte(fmt.Sprintf(`{"system_uuid":"4c4c4544-0031-4a10-8043-%012d","board_serial":"B%[1]d","system_serial":"S%[1]d","chassis_serial":"C%[1]d","disks":[{"serial":"D%[1]d","system":true}],"nics":[]}`, n)), 0o600))
		return path
	}
	relayConfig := func(name, listen, up, by string, n int) string {
		path, tokenFile := filepath.Join(dir, name+".toml"), filepath.Join(dir, name+".token")
		must(t, os.WriteFile(tokenFile, []byte(run("samehost-manager", "token", "create", "--relay", "--name", host(listen), "--name", host(by), "--config", config)), 0o600))
		must(t, os.WriteFile(path, []byte(fmt.Sprintf("data_dir = %q\nlisten = %q\nhigher_system = %q\nca_file = %q\nenrolment_token_file = %q\nspool_mb = 64\n[hardware]\nfile = %q\n",
			filepath.Join(dir, name), listen, "https://"+up, ca, tokenFile, facts(n))), 0o600))
		return path
	}
	program := func(name, at string, args ...string) *server {
		return &server{t: t, name: name, args: append([]string{filepath.Join(dir, args[0])}, args[1:]...), log: log, at: at}
	}
	links := []*link{newLink(t, toManager, managerAddress), newLink(t, toUpper, upperAddress), newLink(t, toLower, lowerAddress)}
	manager := program("manager", managerAddress, "samehost-manager", "serve", "--config", config)
	manager.start()
	servers := []*server{manager}
	t.Cleanup(func() {
		for _, s := range servers {
			s.kill()
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			lines := strings.Split(string(b), "\n")
			t.Logf("what the programs said last:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
	until := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("in vain: " + what)
			}
		}
	}
	until("the manager listens", manager.listens)
	upper := program("upper relay", upperAddress, "samehost-relay", "serve", "--config", relayConfig("upper", upperAddress, toManager, toUpper, 1))
	upper.start()
	servers = append(servers, upper)
	until("the upper relay listens", upper.listens)
	lower := program("lower relay", lowerAddress, "samehost-relay", "serve", "--config", relayConfig("lower", lowerAddress, toUpper, toLower, 2))
	lower.start()
	servers = append(servers, lower)
	until("the lower relay listens", lower.listens)

	pem, err := os.ReadFile(ca)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	pcs := make([]*counter, clients)
	for i := range pcs {
		pcs[i], err = newCounter(i+1, "https://"+toLower, roots, &token)
		must(t, err)
		for pcs[i].last != checkin.Accepted { // the relays know it then
			must(t, pcs[i].checkIn(t.Context()))
		}
	}
	client, clientToken := filepath.Join(dir, "client.toml"), filepath.Join(dir, "client.token")
	must(t, os.WriteFile(clientToken, []byte(token.Text()), 0o600))
	must(t, os.WriteFile(client, []byte(fmt.Sprintf("data_dir = %q\nhigher_system = %q\nca_file = %q\nenrolment_token_file = %q\n[hardware]\nfile = %q\n",
		filepath.Join(dir, "client"), "https://"+toLower, ca, clientToken, facts(3))), 0o600))
	run("samehost-client", "checkin", "--config", client)

	working, stop := context.WithCancel(t.Context())
	defer stop()
	sending, giveUp := context.WithCancel(t.Context()) // what is begun may end after working does
	defer giveUp()
	var all sync.WaitGroup
	for _, p := range pcs {
		all.Go(func() {
			for working.Err() == nil {
				if err := p.checkIn(sending); err != nil {
					t.Errorf("client: %v", err)
					return
				}
				time.Sleep(150*time.Millisecond + rand.N(150*time.Millisecond))
			}
		})
	}
	all.Go(func() { // the real one
		for working.Err() == nil {
			exec.Command(filepath.Join(dir, "samehost-client"), "checkin", "--config", client).Run() // it may fail meanwhile
			time.Sleep(time.Second)
		}
	})
	cuts, kills := 0, 0
	half := map[*server]int64{}
	for began := time.Now(); time.Since(began) < *length; {
		time.Sleep(100*time.Millisecond + time.Duration(random.Int64N(int64(time.Second))))
		for _, s := range servers {
			s.most.Store(max(s.most.Load(), s.memory()))
		}
		if time.Since(began) > *length/2 && len(half) == 0 {
			for _, s := range servers {
				half[s] = s.most.Load()
			}
		}
		if random.IntN(3) > 0 {
			k := links[random.IntN(len(links))]
			k.cut()
			time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
			k.mend()
			cuts++
			continue
		}
		s := servers[random.IntN(len(servers))]
		s.kill()
		time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
		s.start()
		kills++
	}
	stop()
	for _, k := range links {
		k.mend()
	}
	patience := time.AfterFunc(2*time.Minute, giveUp)
	all.Wait()
	patience.Stop()
	for _, s := range servers {
		until(s.name+" listens", s.listens)
	}
	httpClient := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 5 * time.Second}
	defer httpClient.CloseIdleConnections()
	for _, s := range []*server{lower, upper} {
		until(s.name+" has sent everything up", func() bool {
			res, err := httpClient.Get("https://" + s.at + "/metrics")
			if err != nil {
				return false
			}
			defer res.Body.Close()
			b, _ := io.ReadAll(res.Body)
			if strings.Contains(string(b), "\nsamehost_relay_lost_total 0\n") == false {
				t.Errorf("%s lost reports", s.name)
			}
			return strings.Contains(string(b), "\nsamehost_relay_reports 0\n")
		})
	}
	total, deferred, resent := 0, 0, 0
	for i, p := range pcs {
		until(fmt.Sprintf("client %d is accepted", i), func() bool {
			must(t, p.checkIn(t.Context()))
			return p.last == checkin.Accepted
		})
		total, deferred, resent = total+p.acknowledged, deferred+p.deferred, resent+p.resent
		if uint64(p.acknowledged) != p.report.Counter {
			t.Errorf("client %d: %d acknowledged, counter %d", i, p.acknowledged, p.report.Counter)
		}
	}
	run("samehost-client", "checkin", "--config", client)
	t.Logf("%d cuts, %d kills: %d check-ins acknowledged, %d of them deferred, %d sent again", cuts, kills, total, deferred, resent)
	if cuts == 0 || kills == 0 || deferred == 0 || resent == 0 {
		t.Error("nothing was tried")
	}

	kinds := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(run("samehost-manager", "history", "--json", "--config", config)), "\n") {
		var e struct{ Kind string }
		must(t, json.Unmarshal([]byte(line), &e))
		kinds[e.Kind]++
	}
	for _, kind := range []string{"gap", "fork", "overlap", "ordered"} {
		if kinds[kind] > 0 {
			t.Errorf("%d events of kind %s", kinds[kind], kind)
		}
	}
	if got := strings.Count(run("samehost-manager", "assets", "--json", "--config", config), "\n"); got != clients+3 {
		t.Errorf("%d assets, want %d", got, clients+3)
	}
	if c := strings.TrimSpace(run("samehost-manager", "conflicts", "list", "--json", "--config", config)); c != "" {
		t.Errorf("conflicts: %s", c)
	}
	for _, s := range servers[1:] {
		t.Logf("%s: %d MB at half time, %d MB at most", s.name, half[s]>>10, s.most.Load()>>10)
		if s.most.Load() > 200<<10 || s.most.Load() > half[s]+64<<10 {
			t.Errorf("%s: its memory grew", s.name)
		}
	}
}
