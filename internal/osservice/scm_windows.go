package osservice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"
)

// stopTimeout is how long a service may take to end.
const stopTimeout = 30 * time.Second

// Install registers the service, starts it with the machine from now on, and starts it. What was registered under the
// name before is replaced and started again. It needs an administrator.
func (s Service) Install(ctx context.Context) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := s.install(ctx); err != nil {
		return fmt.Errorf("register service %s: %w", s.Name, explained(err))
	}
	return nil
}

func (s Service) install(ctx context.Context) error {
	m, err := mgr.Connect()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	display := s.DisplayName
	if display == "" {
		display = s.Name
	}
	config := mgr.Config{StartType: mgr.StartAutomatic, ErrorControl: mgr.ErrorNormal, DisplayName: display, Description: s.Description,
		ServiceType: windows.SERVICE_WIN32_OWN_PROCESS}
	h, err := m.OpenService(s.Name)
	switch {
	case err == nil:
		defer h.Close()
		if err := stop(ctx, h); err != nil {
			return err
		}
		config.BinaryPathName = commandLine(s)
		err = h.UpdateConfig(config)
	case errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST):
		if h, err = m.CreateService(s.Name, s.Exec, config, s.Args...); err == nil {
			defer h.Close()
		}
	}
	if err != nil {
		return err
	}
	again := []mgr.RecoveryAction{{Type: mgr.ServiceRestart, Delay: 10 * time.Second}, {Type: mgr.ServiceRestart, Delay: time.Minute}}
	if err := h.SetRecoveryActions(again, 24*60*60); err != nil {
		return err
	}
	if err := h.SetRecoveryActionsOnNonCrashFailures(true); err != nil {
		return err
	}
	// The event log takes messages without it too, only uglier; it may be there from before.
	_ = eventlog.InstallAsEventCreate(s.Name, eventlog.Error|eventlog.Warning|eventlog.Info)
	return h.Start()
}

// Uninstall stops the service and takes its registration away. Where there is none it does nothing. It needs an
// administrator.
func (s Service) Uninstall(ctx context.Context) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := s.uninstall(ctx); err != nil {
		return fmt.Errorf("remove service %s: %w", s.Name, explained(err))
	}
	return nil
}

func (s Service) uninstall(ctx context.Context) error {
	m, err := mgr.Connect()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	h, err := m.OpenService(s.Name)
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	if err := stop(ctx, h); err != nil {
		return err
	}
	if err := h.Delete(); err != nil && !errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) {
		return err
	}
	_ = eventlog.Remove(s.Name)
	return nil
}

func commandLine(s Service) string {
	line := windows.EscapeArg(s.Exec)
	for _, a := range s.Args {
		line += " " + windows.EscapeArg(a)
	}
	return line
}

// stop ends the service and waits until it has ended.
func stop(ctx context.Context, h *mgr.Service) error {
	status, err := h.Control(svc.Stop)
	if errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for status.State != svc.Stopped {
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not end: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond): // Windows tells nobody; one has to ask
		}
		if status, err = h.Query(); err != nil {
			return err
		}
	}
	return nil
}

func explained(err error) error {
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return fmt.Errorf("%w; run this as an administrator", err)
	}
	return err
}

// Run runs f until it returns or the program is told to end (Ctrl-C, or the service control manager); then f's context is
// cancelled and Run waits for it. That f returns the cancellation is no error. As a service it is known by the name it
// was registered under, and its error goes to the event log, because nobody sees its standard error.
func Run(ctx context.Context, name string, f func(context.Context) error) error {
	service, err := svc.IsWindowsService()
	if err != nil {
		return err
	}
	if !service {
		return interactive(ctx, f)
	}
	h := &handler{ctx: ctx, f: f}
	if err := svc.Run(name, h); err != nil {
		return err
	}
	if h.err != nil {
		if log, err := eventlog.Open(name); err == nil {
			_ = log.Error(1, h.err.Error())
			log.Close()
		}
	}
	return h.err
}

// handler answers the service control manager while f runs.
type handler struct {
	ctx context.Context
	f   func(context.Context) error
	err error
}

// Execute implements svc.Handler.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.f(ctx) }()
	const accepts = svc.AcceptStop | svc.AcceptShutdown
	status <- svc.Status{State: svc.Running, Accepts: accepts}
	for {
		select {
		case err := <-done:
			status <- svc.Status{State: svc.StopPending}
			if h.err = withoutCancel(ctx, err); h.err != nil {
				return true, 1
			}
			return false, 0
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending, WaitHint: uint32(stopTimeout.Milliseconds())}
				cancel()
			}
		}
	}
}
