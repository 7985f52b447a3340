package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
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

// The manager under load: fleetsim is another process beside it, on the same processors.
const (
	few    = 1000 // assets that figures with many are compared to
	window = 60 * time.Second
	five   = 5 * time.Minute

	loadFor   = 8 * time.Second
	connectTo = 5000
)

// A server is a manager and the clients that fleetsim remembers for it.
type server struct {
	*play.Manager
	stage *play.Stage
	dir   string
	api   *http.Client
	user  string
	pass  string
}

// startManager makes a manager with a database of its own and starts it; arguments are init's.
func startManager(stage *play.Stage, name string, args ...string) (*server, error) {
	sub := &play.Stage{Dir: filepath.Join(stage.Dir, name), Bin: stage.Bin, Net: stage.Net}
	if err := os.Mkdir(sub.Dir, 0o700); err != nil {
		return nil, err
	}
	m, err := sub.InitManager(args...)
	if err != nil {
		return nil, err
	}
	s := &server{Manager: m, stage: sub, dir: sub.Dir, user: "admin"}
	password, err := os.ReadFile(filepath.Join(filepath.Dir(m.Config), "admin-password"))
	if err != nil {
		return nil, err
	}
	s.pass = strings.TrimSpace(string(password))
	pem, err := os.ReadFile(m.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	s.api = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	if err := m.Serve(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// close ends the manager; again it does nothing.
func (s *server) close() error {
	s.api.CloseIdleConnections()
	return s.stage.Close()
}

// simulated is what fleetsim --json tells.
type simulated struct {
	Enrolment, CheckIns struct {
		Seconds   float64                         `json:"seconds"`
		Accepted  int64                           `json:"accepted"`
		Skipped   int64                           `json:"skipped"`
		Full      int64                           `json:"full"`
		Retries   int64                           `json:"retries"`
		PerSecond float64                         `json:"per_second"`
		Latency   struct{ P50, P99, Max float64 } `json:"latency_ms"`
	}
	BytesSent     int64 `json:"bytes_sent"`
	BytesReceived int64 `json:"bytes_received"`

	processor float64 // microseconds of the manager's per check-in of the load
}

func (s *simulated) UnmarshalJSON(b []byte) error {
	type plain simulated
	var w struct {
		plain
		E json.RawMessage `json:"enrolment"`
		C json.RawMessage `json:"check_ins"`
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*s = simulated(w.plain)
	return errors.Join(json.Unmarshal(w.E, &s.Enrolment), json.Unmarshal(w.C, &s.CheckIns))
}

// load runs fleetsim, whose clients look at the certificate no more than the bare ones do. It fails if any check-in was refused, unanswered or answered wrongly.
func (s *server) load(args ...string) (simulated, error) {
	var r simulated
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.stage.Bin, "fleetsim"), append([]string{"--higher-system", "https://" + s.Listen, "--token-file", s.TokenFile,
		"--state", filepath.Join(s.dir, "fleet"), "--json"}, args...)...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	before, err := processorTime(s.Pid())
	if err != nil {
		return r, err
	}
	err = cmd.Run()
	after, err2 := processorTime(s.Pid())
	if err = errors.Join(err, err2); err == nil {
		err = json.Unmarshal(out.Bytes(), &r)
	}
	if err != nil {
		return r, fmt.Errorf("fleetsim %s: %w\n%s%s", strings.Join(args, " "), err, &out, &problems)
	}
	if n := r.CheckIns.Accepted; n > 0 {
		r.processor = (after - before).Seconds() * 1e6 / float64(n)
	}
	return r, nil
}

// processorTime is what a process has used so far.
func processorTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may hold spaces
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// a table of figures, each with what was hoped for.
type table struct{ *tabwriter.Writer }

func newTable(head string) table {
	t := table{tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(t, head+"\tmeasured\taim\tof the aim\twhat limits it")
	return t
}

// most is a figure that is to be high, least one that is to be low.
func (t table) most(what string, got, aim float64, unit, limit string) {
	t.row(what, got, aim, unit, limit, "at least ")
}
func (t table) least(what string, got, aim float64, unit, limit string) {
	t.row(what, got, aim, unit, limit, "under ")
}

func (t table) row(what string, got, aim float64, unit, limit, word string) {
	if aim == 0 {
		fmt.Fprintf(t, "%s\t%s %s\t\t\t%s\n", what, number(got), unit, limit)
		return
	}
	fmt.Fprintf(t, "%s\t%s %s\t%s%s\t%.2f\t%s\n", what, number(got), unit, word, number(aim), got/aim, limit)
}

// number shows three digits that mean something.
func number(v float64) string {
	if v == 0 || math.Abs(v) >= 100 {
		return strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', max(0, 2-int(math.Floor(math.Log10(math.Abs(v))))), 64)
}

// bounds are what no manager on this machine could be faster than.
type bounds struct{ signatures, appends, requests, handshakes, resumed float64 }

func measureBounds(stage *play.Stage) (b bounds, err error) {
	if b.signatures, err = bareSignatures(); err != nil {
		return b, err
	}
	if b.appends, err = bareAppends(stage.Dir); err != nil {
		return b, err
	}
	s, err := startBare("127.155.1.1:8740", "127.155.1.2:8740")
	if err != nil {
		return b, err
	}
	defer s.stop()
	if b.requests, err = s.requests(); err != nil {
		return b, err
	}
	if b.handshakes, err = s.handshakes(false); err != nil {
		return b, err
	}
	b.resumed, err = s.handshakes(true)
	return b, err
}

// loaded measures check-ins against what bounds them.
func loaded(stage *play.Stage, known int) error {
	b, err := measureBounds(stage)
	if err != nil {
		return err
	}
	t := newTable("what bounds a check-in on this machine")
	for _, r := range []struct {
		what string
		v    float64
	}{{"Ed25519: one verified and one made, all processors", b.signatures}, {"4 KiB appended and synchronised, one after the other", b.appends},
		{"request and answer over TLS that is kept, 64 connections", b.requests}, {"full TLS 1.3 handshakes", b.handshakes}, {"the same by session tickets", b.resumed}} {
		t.most(r.what, r.v, 0, "/s", "")
	}
	fmt.Fprintln(t)
	if err := t.Flush(); err != nil {
		return err
	}
	return checkIns(stage, b, known)
}

// checkIns measures a manager with so many known clients, on SQLite and on PostgreSQL.
func checkIns(stage *play.Stage, b bounds, known int) error {
	t := newTable(fmt.Sprintf("check-ins of %d known clients, signed, verified, durable, answered", known))
	alone, err := registryAlone()
	if err != nil {
		return err
	}
	t.most("registry alone, no HTTP (SQLite)", alone, 0, "/s", fmt.Sprintf("%.0f %% of the bare signatures; %.1f per bare append: they share it", 100*alone/b.signatures, alone/b.appends))
	lite, err := startManager(stage, "sqlite")
	if err != nil {
		return err
	}
	defer lite.close()
	if err := rates(t, lite, "SQLite", 8000, b, known); err != nil {
		return err
	}
	if err := newConnections(t, lite, b, known); err != nil {
		return err
	}
	if err := openConnections(t, lite, known); err != nil {
		return err
	}
	if err := lite.close(); err != nil {
		return err
	}
	pg, err := stage.StartPostgres()
	if errors.Is(err, play.ErrNoPostgres) {
		fmt.Fprintf(t, "PostgreSQL\tNOT MEASURED: %v\n", err)
	} else if err != nil {
		return err
	} else {
		defer pg.Close()
		dsn, err := pg.Make("bench")
		if err != nil {
			return err
		}
		m, err := startManager(stage, "postgres", "--database", dsn)
		if err != nil {
			return err
		}
		defer m.close()
		if err := rates(t, m, "PostgreSQL", 6000, b, known); err != nil {
			return err
		}
		if err := m.close(); err != nil {
			return err
		}
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// registryAlone is BenchmarkFleet of internal/registry.
func registryAlone() (float64, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkFleet$", "-benchtime", "1x", "./internal/registry")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("BenchmarkFleet: %w\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if i := slices.Index(f, "checkins/s"); i > 0 {
			return strconv.ParseFloat(f[i-1], 64)
		}
	}
	return 0, fmt.Errorf("BenchmarkFleet told no checkins/s:\n%s", out)
}

// rates measures how many check-ins a manager takes, and how long they take where it is not at its limit.
func rates(t table, s *server, database string, aim float64, b bounds, known int) error {
	clients := []string{"--clients", strconv.Itoa(known), "--tls", kept}
	if _, err := s.load(append(clients, "--settle", "1", "--rate", "100", "--duration", "1s")...); err != nil { // every reply verified
		return err
	}
	var most simulated
	for range 2 { // the better one
		r, err := s.load(append(clients, "--no-verify", "--rate", "0", "--duration", loadFor.String(), "--sign-ahead", strconv.Itoa(int(aim*1.2*loadFor.Seconds())))...)
		if err != nil {
			return err
		}
		if r.CheckIns.PerSecond > most.CheckIns.PerSecond {
			most = r
		}
	}
	t.most(database+", HTTPS that is kept, as fast as it goes", most.CheckIns.PerSecond, aim, "/s",
		fmt.Sprintf("%.0f %% of the bare signatures, %.0f %% of the bare requests; %.0f µs of the manager's processor time each", 100*most.CheckIns.PerSecond/b.signatures, 100*most.CheckIns.PerSecond/b.requests, most.processor))
	rate := min(aim, 0.8*most.CheckIns.PerSecond)
	r, err := s.load(append(clients, "--no-verify", "--rate", fmt.Sprintf("%.0f", rate), "--duration", loadFor.String(), "--sign-ahead", fmt.Sprintf("%.0f", rate*loadFor.Seconds()))...)
	if err != nil {
		return err
	}
	t.least(fmt.Sprintf("%s, p99 at %.0f/s, whatever the answers do", database, rate), r.CheckIns.Latency.P99, 100, "ms", fmt.Sprintf("p50 %.1f ms, longest %.0f ms", r.CheckIns.Latency.P50, r.CheckIns.Latency.Max))
	return nil
}

// The words of fleetsim --tls.
const (
	kept    = "kept"
	resumed = "resumed"
	fresh   = "new"
)

// newConnections measures check-ins that each come by a connection of their own.
func newConnections(t table, s *server, b bounds, known int) error {
	for _, c := range []struct {
		use, what string
		bare, aim float64
	}{{fresh, "a new connection each, full handshakes", b.handshakes, 0.55}, {resumed, "a new connection each, by session tickets", b.resumed, 0}} {
		r, err := s.load("--clients", strconv.Itoa(known), "--no-verify", "--rate", "0", "--duration", (loadFor / 2).String(), "--tls", c.use, "--sign-ahead", "20000")
		if err != nil {
			return err
		}
		ratio := r.CheckIns.PerSecond / c.bare
		t.most(c.what, r.CheckIns.PerSecond, c.aim*c.bare, "/s", fmt.Sprintf("%.0f %% of as many bare handshakes; %.0f µs of the manager's processor time each", 100*ratio, r.processor))
	}
	return nil
}

// openConnections measures what a connection costs that is open.
func openConnections(t table, s *server, known int) error {
	// A client that keeps its connection comes once a minute at most; these come every twenty seconds.
	args := []string{"--clients", strconv.Itoa(known), "--no-verify", "--rate", strconv.Itoa(connectTo / 20), "--tls", kept}
	if _, err := s.load(append(args, "--duration", "10s", "--connections", "64")...); err != nil {
		return err
	}
	before, err := resident(s.Pid())
	if err != nil {
		return err
	}
	type measured struct {
		mb   float64
		open int
		err  error
	}
	most := make(chan measured, 1)
	stop := make(chan struct{})
	go func() {
		var m measured
		for m.err == nil {
			select {
			case <-stop:
				most <- m
				return
			case <-time.After(200 * time.Millisecond):
			}
			files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Pid()))
			if m.err = err; err == nil && len(files) >= m.open {
				m.open = len(files)
				m.mb, m.err = resident(s.Pid())
			}
		}
		most <- m
	}()
	_, err = s.load(append(args, "--duration", "50s", "--connections", strconv.Itoa(connectTo))...)
	close(stop)
	m := <-most
	if err = errors.Join(err, m.err); err != nil {
		return err
	}
	if m.open < connectTo/2 {
		return fmt.Errorf("%d files of the manager were open at most, where %d connections were to be", m.open, connectTo)
	}
	t.least(fmt.Sprintf("memory of each connection that is open, of %d", m.open), (m.mb-before)*1e6/1024/float64(m.open), 24, "KiB", fmt.Sprintf("the manager's resident memory: %.0f MB before, %.0f MB with them", before, m.mb))
	return nil
}

// lookup is what asking a manager takes, in milliseconds, and what checking in does, in microseconds of its processor time.
type lookup struct{ list, search, detail, command, checkIn float64 }

func (s *server) lookup(assets int) (l lookup, err error) {
	r, err := s.load("--clients", strconv.Itoa(assets), "--no-verify", "--rate", "300", "--duration", "10s", "--tls", kept, "--sign-ahead", "3000")
	if err != nil {
		return l, err
	}
	l.checkIn = r.processor
	var page struct {
		Assets []struct {
			HostID string `json:"host_id"`
			Name   string `json:"name"`
		} `json:"assets"`
	}
	if err := s.get("assets?limit=100", &page); err != nil {
		return l, err
	}
	if len(page.Assets) == 0 {
		return l, errors.New("GET assets: none")
	}
	one := page.Assets[len(page.Assets)/2]
	for _, q := range []struct {
		path string
		into *float64
	}{{"assets?limit=100", &l.list}, {"assets?name=" + url.QueryEscape(one.Name), &l.search}, {"assets/" + one.HostID, &l.detail}} {
		if *q.into, err = median(101, func() error { return s.get(q.path, nil) }); err != nil {
			return l, err
		}
	}
	l.command, err = median(5, func() error {
		r, err := s.Command("asset", one.HostID)
		if err == nil && !strings.Contains(r.Stdout, one.HostID) {
			err = errors.New("asset does not show the asset")
		}
		return err
	})
	return l, err
}

// median of the times that f takes, in milliseconds.
func median(n int, f func() error) (float64, error) {
	times := make([]float64, n)
	for i := range times {
		began := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		times[i] = time.Since(began).Seconds() * 1000
	}
	slices.Sort(times)
	return times[n/2], nil
}

func (s *server) get(path string, into any) error {
	req, err := http.NewRequest(http.MethodGet, "https://"+s.Listen+"/api/v1/"+path, nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(s.user, s.pass)
	res, err := s.api.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: HTTP %d %.200s", path, res.StatusCode, b)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(b, into)
	}
	return err
}

// manyAssets compares a manager with very many assets to itself with few, and lets all of them check in every five minutes.
func manyAssets(stage *play.Stage, assets int) error {
	s, err := startManager(stage, "many")
	if err != nil {
		return err
	}
	defer s.close()
	settle := func(n int) error {
		_, err := s.load("--clients", strconv.Itoa(n), "--no-verify", "--settle", "1", "--rate", "100", "--duration", "1s", "--tls", kept)
		return err
	}
	if err := settle(few); err != nil {
		return err
	}
	small, err := s.lookup(few)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := settle(assets); err != nil {
		return err
	}
	filled := time.Since(began)
	big, err := s.lookup(assets)
	if err != nil {
		return err
	}
	t := newTable(fmt.Sprintf("%d assets, to %d (filled in %.0f s)", assets, few, filled.Seconds()))
	for _, r := range []struct {
		what       string
		small, big float64
		unit       string
	}{
		{"a check-in, the manager's processor time", small.checkIn, big.checkIn, "µs"},
		{"GET assets?limit=100", small.list, big.list, "ms"},
		{"GET assets?name=", small.search, big.search, "ms"},
		{"GET assets/HOSTID", small.detail, big.detail, "ms"},
		{"samehost-manager asset HOSTID", small.command, big.command, "ms"},
	} {
		t.least(r.what, r.big/r.small, 1.5, "times", fmt.Sprintf("%.2f %s to %.2f %s", r.big, r.unit, r.small, r.unit))
	}

	busy, mb, r, err := s.during(assets)
	if err != nil {
		return err
	}
	t.least(fmt.Sprintf("%d clients every %v: the manager's share of one processor", assets, five), 100*busy, 25, "%",
		fmt.Sprintf("%.0f check-ins/s, %.0f µs each, p99 %.0f ms", r.CheckIns.PerSecond, r.processor, r.CheckIns.Latency.P99))
	t.least("the same: its resident memory at most", mb, 500, "MB", fmt.Sprintf("%d up and %d down per check-in, inside TLS", r.BytesSent/max(1, r.CheckIns.Accepted), r.BytesReceived/max(1, r.CheckIns.Accepted)))
	if db, err := os.Stat(filepath.Join(filepath.Dir(s.Config), "samehost.db")); err == nil {
		t.least("the same: database on disk, per asset", float64(db.Size())/1024/float64(assets), 0, "KiB", fmt.Sprintf("%.0f MB", float64(db.Size())/1e6))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Println()
	return s.close()
}

// during lets all clients check in every five minutes for a while, with a connection each as real ones have.
func (s *server) during(assets int) (busy, mb float64, r simulated, err error) {
	stop, most := make(chan struct{}), make(chan float64, 1)
	go func() {
		high := 0.0
		for {
			select {
			case <-stop:
				most <- high
				return
			case <-time.After(time.Second):
				if mb, err := resident(s.Pid()); err == nil {
					high = max(high, mb)
				}
			}
		}
	}()
	r, err = s.load("--clients", strconv.Itoa(assets), "--interval", five.String(), "--duration", window.String(), "--tls", resumed)
	close(stop)
	mb = <-most
	return r.processor / 1e6 * r.CheckIns.PerSecond, mb, r, err
}
