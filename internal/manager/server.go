package manager

import (
	"context"
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
	"strings"
	"sync"
	"syscall"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/checkin"
	"samehost/internal/registry"
)

// Bounds on one connection. A report is at most 64 KiB, so that even a slow line brings it in time.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
	stopTimeout   = 10 * time.Second // what is under way may end; then connections are cut
	trimEvery     = time.Hour
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

// Serve takes check-ins until the context ends, and then ends in order. One process serves a data folder at a time.
func Serve(ctx context.Context, o Options) error {
	reg, err := OpenRegistry(ctx, o.DataDir, o.Database)
	if err != nil {
		return err
	}
	defer reg.Close()
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
	srv := &http.Server{
		Handler:           withRelays(ctx, handler(reg, o), reg, certs, o.Log),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certs.get, ClientAuth: tls.RequestClientCert}, // relays show one
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
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
	go func() { failed <- srv.ServeTLS(l, "", "") }()
	o.Log.Info("listening", "address", l.Addr().String(), "data_dir", o.DataDir, "certificate_for", strings.Join(certs.goodFor(), " "))
	if o.Listening != nil {
		o.Listening(l.Addr())
	}
	following, unfollow := context.WithCancel(ctx)
	var followed sync.WaitGroup
	followed.Go(func() { followInitializations(following, reg, o.DataDir, o.Log) })
	followed.Go(func() { followAMTSettings(following, reg, o.DataDir, o.Log) })
	followed.Go(func() { followArchiving(following, reg, o.ArchiveAfterDays, o.Log) })
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
	if err := srv.Shutdown(stopping); err != nil {
		srv.Close()
	}
	<-failed
	return nil
}

func handler(reg *registry.Registry, o Options) http.Handler {
	log := o.Log
	mux := http.NewServeMux()
	mux.Handle(checkin.Path, checkin.Handler(reg, log))
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
	small, large := http.MaxBytesHandler(mux, 2*checkin.MaxReport), http.MaxBytesHandler(mux, MaxRunFile+maxBody)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == runsPath { // a system configuration information file may come with the request
			large.ServeHTTP(w, r)
			return
		}
		small.ServeHTTP(w, r)
	})
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
