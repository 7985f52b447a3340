package relay

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/intake"
)

const (
	stopTimeout = 10 * time.Second // what is under way may end; then connections are cut

	statusFile  = "relay-status.json"
	statusEvery = 5 * time.Second // the status is written that often, and who the relay is is looked at
	maxStatus   = 64 << 10
	saveNew     = time.Second // a client that is new is remembered so soon
	saveClients = time.Hour   // and that others are heard still
	renewEvery  = time.Hour   // a renewal that fails is tried again
	firstObtain = 2 * time.Second
	lastObtain  = time.Minute
)

// ServeOptions say what to serve.
type ServeOptions struct {
	DataDir      string
	Listen       string   // HOST:PORT
	Names        []string // for the certificate; none: all that the token allows
	HigherSystem string   // https://HOST:PORT
	RootCAs      *x509.CertPool
	PinSPKI      []byte // or the pin; as in checkin.ClientOptions
	TokenFile    string
	Spool        int64 // bytes
	Hardware     func(context.Context) (hardware.Facts, error)
	Settings     func(*checkin.AMTSettings) error // as agent.Options has it
	Version      string
	Log          *slog.Logger

	// Do is what this relay can be given to do, by kind. It is called with the relay's own record when that is known.
	Do func(hostid.Record) map[string]Do

	// Listening is called with the address whenever check-ins begin to be taken.
	Listening func(net.Addr)
}

// Status is what `samehost-relay status` shows. Its JSON names never change their meaning.
type Status struct {
	HostID       hostid.ID           `json:"host_id,omitzero"`
	Manager      checkin.Fingerprint `json:"manager,omitempty"`
	HigherSystem string              `json:"higher_system"`
	Listening    string              `json:"listening,omitempty"` // address; "" while no check-ins are taken
	Waiting      string              `json:"waiting,omitempty"`   // why none are taken, and what to do
	Names        []string            `json:"certificate_for,omitempty"`
	Expires      time.Time           `json:"certificate_expires,omitzero"`
	Renewal      string              `json:"renewal_error,omitempty"` // why the certificate could not be renewed yet
	OpenWork     int                 `json:"open_work"`
	Refused      string              `json:"no_relay,omitempty"` // why the manager gives it no work
	State        *State              `json:"state,omitempty"`    // of its spool
	Written      time.Time           `json:"written"`            // when this was so
}

// ReadStatus reads the status of a data folder, also while a relay works there.
func ReadStatus(dataDir string) (Status, error) {
	b, err := hostid.ReadRegularFile(filepath.Join(dataDir, statusFile), maxStatus)
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return Status{}, fmt.Errorf("%s: %w", filepath.Join(dataDir, statusFile), hostid.ErrCorrupt)
	}
	return s, nil
}

// server is one run of Serve.
type server struct {
	o     ServeOptions
	agent *agent.Agent
	relay atomic.Pointer[Relay] // while it takes check-ins
	own   atomic.Pointer[host]  // what the relay's own last report said; never nil

	mu     sync.Mutex
	status Status
}

// Serve is a relay: it checks in itself, gets its certificate, and takes check-ins until the context ends. One process works in
// a data folder at a time; the error wraps hostid.ErrLocked if another does.
func Serve(ctx context.Context, o ServeOptions) error {
	s := &server{o: o, status: Status{HigherSystem: o.HigherSystem}}
	s.own.Store(&host{})
	a, err := agent.Open(agent.Options{
		DataDir: o.DataDir, HigherSystem: o.HigherSystem, TokenFile: o.TokenFile, Hardware: o.Hardware, Settings: o.Settings, Version: o.Version, Log: o.Log,
		Connect: func(manager checkin.Fingerprint, now func() time.Time) (checkin.HigherSystem, error) {
			c, err := checkin.NewClient(checkin.ClientOptions{URL: o.HigherSystem, RootCAs: o.RootCAs, PinSPKI: o.PinSPKI, Manager: manager, Now: now})
			if err != nil {
				return nil, err
			}
			return ownReports{c, s}, nil
		},
		Relay: s.report,
	})
	if err != nil {
		return err
	}
	s.agent = a
	defer a.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	failed := make(chan error, 1)
	all.Go(func() {
		if err := a.Run(ctx); err != nil {
			failed <- err
			cancel()
		}
	})
	all.Go(func() { s.writeStatus(ctx) })
	for ctx.Err() == nil {
		who, err := s.identity(ctx)
		if err != nil {
			break // the context ended
		}
		err = s.serveAs(ctx, who)
		if err != nil && !errors.Is(err, errOther) && ctx.Err() == nil {
			return err
		}
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// errOther says that the relay is another one by now: an order or an administrator gave it another host ID or manager.
var errOther = errors.New("the relay has another host ID or manager")

// report is the relay's word in its own report.
func (s *server) report() checkin.RelayState {
	if r := s.relay.Load(); r != nil {
		return r.Report()
	}
	return checkin.RelayState{Bound: s.o.Spool}
}

// ownReports are the relay's own, on their way up. What one says of the relay stands in its system configuration.
type ownReports struct {
	*checkin.Client
	s *server
}

func (o ownReports) CheckIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	reply, err := o.Client.CheckIn(ctx, r)
	v, wrong := checkin.Verify(r)
	if err != nil || wrong != nil {
		return reply, err
	}
	own := describe(v, nil)
	if v.Report.Base != (checkin.Digest{}) { // a full one came before, since this program started
		own = *o.s.own.Load()
	}
	own.Last = time.Now().UnixMilli()
	o.s.own.Store(&own)
	if relay := o.s.relay.Load(); relay != nil {
		relay.noteOwn(own)
	}
	return reply, nil
}

// now is who this relay is, as its data folder says; ok is false while it is not enrolled.
func (s *server) now(ctx context.Context) (who identity, waiting string, ok bool) {
	record, err := hostid.NewFile(s.o.DataDir).Load(ctx)
	if err != nil {
		return who, "no host ID was made yet", false
	}
	st, err := agent.ReadStatus(ctx, s.o.DataDir)
	if err != nil {
		return who, err.Error(), false
	}
	who = identity{record, st.Manager}
	switch {
	case st.Manager == "" || !st.Enrolled:
		waiting = "the manager has not accepted this relay's own check-in yet"
		if st.LastError != "" {
			waiting += ": " + st.LastError
		}
		return who, waiting, false
	}
	return who, "", true
}

// identity waits until the relay is enrolled.
func (s *server) identity(ctx context.Context) (identity, error) {
	for {
		who, waiting, ok := s.now(ctx)
		s.waiting(who, waiting)
		if ok {
			return who, nil
		}
		select {
		case <-time.After(firstObtain / 4):
		case <-ctx.Done():
			return who, ctx.Err()
		}
	}
}

func (s *server) waiting(who identity, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.HostID, s.status.Manager = who.record.HostID, who.manager
	if why != "" && why != s.status.Waiting {
		s.o.Log.Warn("no check-ins are taken yet", "reason", why)
	}
	s.status.Waiting = why
}

// serveAs takes check-ins as that relay. It returns errOther when it is another one.
func (s *server) serveAs(ctx context.Context, who identity) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cert, err := loadCertificate(s.o.DataDir, who.record.HostID)
	if err != nil {
		s.o.Log.Warn("the relay's certificate cannot be read", "error", err)
	}
	up, err := checkin.NewRelayClient(checkin.ClientOptions{URL: s.o.HigherSystem, RootCAs: s.o.RootCAs, PinSPKI: s.o.PinSPKI, Manager: who.manager, Certificate: cert.get})
	if err != nil {
		return err
	}
	defer up.Close()
	if err := s.firstCertificate(ctx, cert, up, who); err != nil {
		return err
	}
	r, err := Open(Options{DataDir: s.o.DataDir, HostID: who.record.HostID, Manager: who.manager, Higher: up, Spool: s.o.Spool, Log: s.o.Log})
	if err != nil {
		return err
	}
	defer func() {
		s.relay.Store(nil)
		if err := r.Close(); err != nil {
			s.o.Log.Error("the spool did not end in order", "error", err)
		}
	}()
	var do map[string]Do
	if s.o.Do != nil {
		do = s.o.Do(who.record)
	}
	w, err := openWorks(s.o.DataDir, who, up, do, s.o.Log)
	if err != nil {
		return err
	}
	s.relay.Store(r)
	r.noteOwn(*s.own.Load())
	l, err := net.Listen("tcp", s.o.Listen)
	if err != nil {
		w.closeFiles()
		return listenError(s.o.Listen, err)
	}
	tickets, err := ticketSecret(who.record.Seed)
	if err != nil {
		l.Close()
		w.closeFiles()
		return err
	}
	gate := intake.NewRelayGate(r)
	var srv *intake.Server
	srv = intake.NewServer(intake.Options{
		Handler: endingWith(ctx, s.handler(r, gate, w, up, cert, func(w io.Writer) {
			r.State().WriteMetrics(w)
			gate.WriteFigures(w)
			srv.WriteFigures(w)
		})),
		TLS: &tls.Config{ClientAuth: tls.RequestClientCert, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := cert.get()
			if c == nil && err == nil {
				err = errors.New("the relay's certificate has expired, and the manager has issued no other yet")
			}
			return c, err
		}},
		TicketSecret: tickets,
		Log:          s.o.Log,
	})
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	s.o.Log.Info("listening", "address", l.Addr().String(), "host_id", who.record.HostID, "certificate_for", strings.Join(cert.names(), " "))
	s.listening(l.Addr().String(), cert, w)
	if s.o.Listening != nil {
		s.o.Listening(l.Addr())
	}
	var all sync.WaitGroup
	all.Go(func() { w.run(ctx) })
	all.Go(func() { s.renew(ctx, cert, up, who) })
	all.Go(func() { s.agent.CheckIn(ctx) }) // the manager hears of it as a relay now, and not in a quarter of an hour
	journals := &Journals{DataDir: s.o.DataDir, HostID: who.record.HostID, Key: who.record.Seed.SigningKey(), Send: up.Progress, Log: s.o.Log}
	all.Go(func() { journals.Follow(ctx) })
	err = s.watch(ctx, r, who, failed, w, cert)
	cancel()
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	srv.Shutdown(stopping)
	all.Wait()
	s.listening("", cert, w)
	return err
}

// watch waits until the relay is to end, is another one, or cannot serve.
func (s *server) watch(ctx context.Context, r *Relay, who identity, failed chan error, w *works, cert *certificate) error {
	look := time.NewTicker(statusEvery)
	defer look.Stop()
	save := time.NewTicker(saveNew)
	defer save.Stop()
	saved := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return fmt.Errorf("serve on %s: %w", s.o.Listen, err)
		case <-save.C:
			all := time.Since(saved) > saveClients
			if all {
				saved = time.Now()
			}
			if err := errors.Join(r.SaveClients(!all), r.SaveSubtree()); err != nil {
				s.o.Log.Warn("what is known of clients cannot be written", "error", err)
			}
		case <-look.C:
			s.listening(s.address(), cert, w)
			if is, _, ok := s.now(ctx); ok && !is.same(who) {
				s.o.Log.Warn("the relay's host ID or manager has changed: it begins anew under it", "was", who.record.HostID, "is", is.record.HostID)
				return errOther
			}
		}
	}
}

func (s *server) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Listening
}

func (s *server) listening(address string, cert *certificate, w *works) {
	open, refused := w.state()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Listening, s.status.Names, s.status.Expires, s.status.OpenWork, s.status.Refused = address, cert.names(), cert.expires(), open, refused
}

// firstCertificate waits for a certificate that is valid.
func (s *server) firstCertificate(ctx context.Context, cert *certificate, up *checkin.RelayClient, who identity) error {
	wait := time.Duration(0)
	for {
		if c, _ := cert.get(); c != nil {
			s.waiting(who, "")
			return nil
		}
		err := cert.obtain(ctx, up, who, s.o.Names, s.o.TokenFile)
		if err == nil {
			up.Renew()
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.waiting(who, "this relay has no TLS certificate yet: "+err.Error())
		wait = min(max(2*wait, firstObtain), lastObtain)
		select {
		case <-time.After(jitter(wait)):
		case <-ctx.Done():
			return ctx.Err()
		}
		if is, _, ok := s.now(ctx); ok && !is.same(who) {
			return errOther
		}
	}
}

// renew asks for another certificate in time.
func (s *server) renew(ctx context.Context, cert *certificate, up *checkin.RelayClient, who identity) {
	for ctx.Err() == nil {
		if cert.due(time.Now(), s.o.Names) {
			err := cert.obtain(ctx, up, who, s.o.Names, s.o.TokenFile)
			text := ""
			if err != nil && ctx.Err() == nil {
				text = err.Error()
				s.o.Log.Warn("the certificate could not be renewed; tried again in an hour", "valid_until", cert.expires(), "reason", err)
			}
			if err == nil {
				up.Renew()
				s.o.Log.Info("certificate renewed", "valid_until", cert.expires(), "for", strings.Join(cert.names(), " "))
			}
			s.mu.Lock()
			s.status.Renewal = text
			s.mu.Unlock()
		}
		select {
		case <-time.After(jitter(renewEvery)):
		case <-ctx.Done():
		}
	}
}

// handler serves what is below, and who asks how the relay is.
func (s *server) handler(r *Relay, gate checkin.HigherSystem, w *works, up *checkin.RelayClient, cert *certificate, figures func(io.Writer)) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(checkin.Path, http.MaxBytesHandler(checkin.Handler(gate, s.o.Log), 2*checkin.MaxReport))
	mux.Handle(checkin.RelayPath, checkin.RelayHandler(gate, checkin.ForRelays{
		Who: func(req *http.Request) (hostid.ID, error) {
			id, err := checkin.RelayOf(req.TLS, cert.authority(), time.Now())
			if err == nil && w.isRevoked(id) {
				err = fmt.Errorf("%w; host ID %s is no relay any more, as the manager says", checkin.ErrNoRelay, id)
			}
			return id, err
		},
		Work:        w.forBelow,
		Progress:    func(ctx context.Context, _ hostid.ID, jws string) error { return up.Progress(ctx, jws) },
		Certificate: up.Certificate,
	}, s.o.Log))
	// healthz: the process runs. readyz: reports are taken; the higher system need not be reached for that.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "ok\n%s", r.State().Text())
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if st := r.State(); st.Full {
			http.Error(w, "the spool is full: no reports are taken\n"+st.Text(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", intake.MediaFigures)
		figures(w)
	})
	return mux
}

// endingWith has requests end with a context, polls for work above all.
func endingWith(serving context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithCancel(req.Context())
		defer cancel()
		defer context.AfterFunc(serving, cancel)()
		h.ServeHTTP(w, req.WithContext(ctx))
	})
}

// ticketSecret is what keys of TLS session tickets are derived from: the same after a restart, and another for another relay.
func ticketSecret(seed hostid.Seed) ([]byte, error) {
	return hkdf.Key(sha256.New, seed.SigningKey().Seed(), nil, "samehost/relay/tls-tickets/1", 32)
}

// Text is the state in lines for people.
func (s State) Text() string {
	way := "reached"
	if !s.Up {
		way = "out of reach since " + s.Since.Local().Format(time.RFC3339)
	}
	var kept string
	oldest := time.Duration(s.OldestS) * time.Second
	switch {
	case s.Reports == 0:
		kept = "0 reports are kept"
	case s.Reports == 1:
		kept = fmt.Sprintf("1 report is kept, for %s", oldest)
	case s.Clients == 1:
		kept = fmt.Sprintf("%d reports of 1 client are kept, the oldest for %s", s.Reports, oldest)
	default:
		kept = fmt.Sprintf("%d reports of %d clients are kept, the oldest for %s", s.Reports, s.Clients, oldest)
	}
	full := ""
	if s.Full {
		full = "; FULL: no reports are taken"
	}
	return fmt.Sprintf("higher system %s\n%s\nspool %d of %d MB%s\n", way, kept, s.Bytes>>20, s.Bound>>20, full)
}

// WriteMetrics writes the state in Prometheus's text format.
func (s State) WriteMetrics(w io.Writer) {
	yes := map[bool]int64{true: 1}
	for _, m := range []struct {
		name, kind, help string
		value            int64
	}{
		{"samehost_relay_up", "gauge", "Whether the higher system is reached.", yes[s.Up]},
		{"samehost_relay_full", "gauge", "Whether the spool has reached its bound.", yes[s.Full]},
		{"samehost_relay_reports", "gauge", "Reports that are kept.", int64(s.Reports)},
		{"samehost_relay_clients", "gauge", "Clients whose reports are kept.", int64(s.Clients)},
		{"samehost_relay_oldest_seconds", "gauge", "How long the oldest report has waited.", s.OldestS},
		{"samehost_relay_spool_bytes", "gauge", "Bytes that the spool takes on the disk.", s.Bytes},
		{"samehost_relay_spool_bound_bytes", "gauge", "Bytes that it may take.", s.Bound},
		{"samehost_relay_taken_total", "counter", "Reports made durable.", s.Taken},
		{"samehost_relay_repeated_total", "counter", "Reports that were kept already.", s.Repeated},
		{"samehost_relay_delivered_total", "counter", "Reports that the manager accepted.", s.Delivered},
		{"samehost_relay_handed_on_total", "counter", "Reports taken into the keeping of a relay above.", s.HandedOn},
		{"samehost_relay_refused_total", "counter", "Reports that were refused.", s.Refused},
		{"samehost_relay_turned_off_total", "counter", "Reports not taken because of a bound.", s.TurnedOff},
		{"samehost_relay_forged_total", "counter", "Answers that the manager did not sign.", s.Forged},
		{"samehost_relay_lost_total", "counter", "Reports that the disk gave back damaged.", s.Lost},
	} {
		intake.Figure(w, m.name, m.kind, m.help, float64(m.value))
	}
}

// writeStatus keeps the status file as things are.
func (s *server) writeStatus(ctx context.Context) {
	again := time.NewTicker(statusEvery)
	defer again.Stop()
	var last Status
	for ending := false; ; {
		s.mu.Lock()
		now := s.status
		s.mu.Unlock()
		if r := s.relay.Load(); r != nil {
			st := r.State()
			now.State = &st
		}
		if !reflect.DeepEqual(now, last) {
			last = now
			now.Written = time.Now().UTC().Truncate(time.Second)
			b, err := json.Marshal(now)
			if err == nil {
				err = hostid.WriteFileDurably(filepath.Join(s.o.DataDir, statusFile), append(b, '\n'))
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.o.Log.Warn("the status cannot be written", "error", err)
			}
		}
		if ending {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			ending = true
		}
	}
}

func listenError(address string, err error) error {
	var lookup *net.DNSError
	switch {
	case errors.As(err, &lookup):
		return fmt.Errorf("listen on %s: no address is known for that name; write an address of this machine as listen into relay.toml", address)
	case errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaAddrInUse):
		return fmt.Errorf("listen on %s: another program uses this address; end it, or write another listen into relay.toml", address)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("listen on %s: not permitted; take a port above 1023, or run this as a user that may", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: this machine has no such address; write another listen into relay.toml", address)
	}
	return fmt.Errorf("listen on %s: %w", address, err)
}

// wsaAddrInUse is EADDRINUSE as Windows numbers it.
const wsaAddrInUse = syscall.Errno(10048)
