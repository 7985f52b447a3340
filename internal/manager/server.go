package manager

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/checkin"
	"samehost/internal/intake"
	"samehost/internal/registry"
)

const (
	stopTimeout = 10 * time.Second // what is under way may end; then connections are cut
	trimEvery   = time.Hour
)

// Options say what to serve.
type Options struct {
	DataDir  string   // made by Init
	Database string   // "sqlite:" and a full path
	Listen   string   // HOST:PORT; port 0 takes a free one
	Names    []string // further DNS names and IP addresses that the certificate is to be good for
	Log      *slog.Logger

	ArchiveAfterDays int // assets silent for that long are archived (registry.ArchiveBySchedule); 0: never

	// AMT says how the AMT of PCs is reached, as the configuration has it at that moment; nil: not at all.
	AMT func() (amtinit.Options, error)

	// Listening is called once, with the address, when check-ins are taken.
	Listening func(net.Addr)
}

// headroom is what the garbage collector counts as in use beside what is, in bytes that nobody touches. The heap is small, and so is
// looked through the more often the more check-ins come; this lets that much more garbage come together before.
const headroom = 64 << 20

// Serve takes check-ins until the context ends, and then ends in order. One process serves a data folder at a time.
func Serve(ctx context.Context, o Options) (err error) {
	defer func() {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) { // ended before it had begun
			err = nil
		}
	}()
	untouched := make([]byte, headroom)
	defer runtime.KeepAlive(untouched)
	reg, err := OpenRegistry(ctx, o.DataDir, o.Database)
	if err != nil {
		return err
	}
	defer reg.Close()
	reg.Gather(gatherTime)
	lock, err := takeLock(o.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", o.Listen, err)
	}
	certs, err := loadCertificates(o.DataDir, host, o.Names, time.Now)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return listenError(o.Listen, err)
	}
	tickets, err := ticketSecret(o.DataDir)
	if err != nil {
		l.Close()
		return err
	}
	gate := intake.NewGate(reg)
	var srv *intake.Server
	srv = intake.NewServer(intake.Options{
		Handler: withRelays(ctx, handler(reg, gate, o, func(w io.Writer) {
			gate.WriteFigures(w)
			srv.WriteFigures(w)
			writeDatabaseFigures(w, reg)
		}), reg, gate, certs, o.Log),
		TLS:          &tls.Config{GetCertificate: certs.get, ClientAuth: tls.RequestClientCert}, // relays show one
		TicketSecret: tickets,
		Log:          o.Log,
	})
	jobs, err := startJobs(ctx, reg, o)
	if err != nil {
		l.Close()
		return err
	}
	defer func() {
		if err := jobs.Close(); err != nil {
			o.Log.Warn("the work on runs did not end in order; it is gone on with when this program serves again", "error", err)
		}
	}()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	o.Log.Info("listening", "address", l.Addr().String(), "data_dir", o.DataDir, "certificate_for", strings.Join(certs.goodFor(), " "))
	if o.Listening != nil {
		o.Listening(l.Addr())
	}
	following, unfollow := context.WithCancel(ctx)
	var followed sync.WaitGroup
	followed.Go(func() { followInitializations(following, reg, o.DataDir, o.Log) })
	followed.Go(func() { followAMTSettings(following, reg, o.DataDir, o.Log) })
	followed.Go(func() { followArchiving(following, reg, o.ArchiveAfterDays, o.Log) })
	followed.Go(func() { followPace(following, reg, o.Log) })
	defer followed.Wait() // before the registry is closed
	defer unfollow()
	trim := time.NewTicker(trimEvery)
	defer trim.Stop()
	for serving := true; serving; {
		select {
		case err := <-failed:
			return fmt.Errorf("serve on %s: %w", l.Addr(), err)
		case <-ctx.Done():
			serving = false
		case <-trim.C:
			if err := reg.Trim(ctx); err != nil && ctx.Err() == nil {
				o.Log.Error("old reports could not be removed; tried again in an hour", "error", err)
			}
		}
	}
	o.Log.Info("stopping")
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	srv.Shutdown(stopping)
	<-failed
	return nil
}

// gatherTime is how long a check-in waits for others where more than fifty come in a second. Nobody waits at the other end.
const gatherTime = 20 * time.Millisecond

// paceEvery is how often it is seen to that clients come no more often than the database can take.
const paceEvery = 5 * time.Second

// followPace tells clients a longer interval while the database cannot keep up with them (registry.Pace).
func followPace(ctx context.Context, reg *registry.Registry, log *slog.Logger) {
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	var told time.Duration
	for {
		interval, err := reg.Pace(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("how busy the database is could not be noted; tried again in a few seconds", "error", err)
		case interval != told && told != 0:
			log.Warn("the interval between check-ins that clients are told has changed with the load of the database", "from", told.String(), "to", interval.String())
		}
		if err == nil {
			told = interval
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func handler(reg *registry.Registry, gate checkin.HigherSystem, o Options, figures func(io.Writer)) http.Handler {
	log := o.Log
	mux := http.NewServeMux()
	mux.Handle(checkin.Path, checkin.Handler(gate, log))
	api := newAPI(reg, o)
	mux.Handle(apiPath, api)
	mux.HandleFunc("GET "+specPath, api.serveSpec)
	// healthz: the process runs. readyz: check-ins can be taken.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := reg.Ready(ctx); err != nil {
			log.Error("not ready", "error", err)
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", intake.MediaFigures)
		figures(w)
	})
	small, large := http.MaxBytesHandler(mux, 2*checkin.MaxReport), http.MaxBytesHandler(mux, MaxRunFile+maxBody)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == runsPath { // a system configuration information file may come with the request
			large.ServeHTTP(w, r)
			return
		}
		small.ServeHTTP(w, r)
	})
}

// ticketSecret is what keys of TLS session tickets are derived from: the same after a restart, and for every manager that has
// this data folder's key.
func ticketSecret(dir string) ([]byte, error) {
	key, err := readKey(dir)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, key.Seed(), nil, "samehost/manager/tls-tickets/1", 32)
}

// writeDatabaseFigures writes what the database costs.
func writeDatabaseFigures(w io.Writer, reg *registry.Registry) {
	f := reg.Figures()
	intake.Figure(w, "samehost_database_writes_total", "counter", "Transactions that wrote to the database, those that failed included.", float64(f.Writes))
	intake.Figure(w, "samehost_database_write_failures_total", "counter", "Those that failed, or met another and were tried again.", float64(f.Failed))
	intake.Figure(w, "samehost_database_seconds_total", "counter", "Time that they took, the wait for their turn and the commit included.", f.Took.Seconds())
}

func listenError(address string, err error) error {
	var lookup *net.DNSError
	switch {
	case errors.As(err, &lookup):
		return fmt.Errorf("listen on %s: no address is known for that name; write an address of this machine as listen into manager.toml", address)
	case errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaAddrInUse):
		return fmt.Errorf("listen on %s: another program uses this address; end it, or write another listen into manager.toml", address)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("listen on %s: not permitted; take a port above 1023, or run this as a user that may", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: this machine has no such address; write another listen into manager.toml", address)
	}
	return fmt.Errorf("listen on %s: %w", address, err)
}

// wsaAddrInUse is EADDRINUSE as Windows numbers it.
const wsaAddrInUse = syscall.Errno(10048)

// ErrLocked says that another process serves the data folder.
var ErrLocked = errors.New("another samehost-manager serves this data folder; end it first")

// takeLock keeps a second server out. The system drops the lock when the process ends, however it ends.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, permission(err)
	}
	held, err := tryLock(f)
	if err == nil && !held {
		err = ErrLocked
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("data folder %s: %w", dir, err)
	}
	return f, nil
}
