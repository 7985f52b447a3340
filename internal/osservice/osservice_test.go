package osservice

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	good := Service{Name: "samehost-client", Description: "Keeps the host ID", Exec: exe, Args: []string{"run", "--config", "a b"}}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Service){
		`service name "": must have 1 to 64 characters`:                                func(s *Service) { s.Name = "" },
		`service name "a/b": must be letters, digits, '-', '_' and '.'`:                func(s *Service) { s.Name = "a/b" },
		`service name ".x": must be letters, digits, '-', '_' and '.'`:                 func(s *Service) { s.Name = ".x" },
		`service samehost-client: "a\nExecStart=evil" holds a control character`:       func(s *Service) { s.Description = "a\nExecStart=evil" },
		`service samehost-client: "\x00" holds a control character`:                    func(s *Service) { s.Args = []string{"\x00"} },
		`service samehost-client: "\xff" is not UTF-8`:                                 func(s *Service) { s.Args = []string{"\xff"} },
		`service samehost-client: "bin/samehost-client" is not a full path`:            func(s *Service) { s.Exec = "bin/samehost-client" },
		`service samehost-client: "data" is not a full path`:                           func(s *Service) { s.Writable = []string{"data"} },
		`service name "` + strings.Repeat("a", 65) + `": must have 1 to 64 characters`: func(s *Service) { s.Name = strings.Repeat("a", 65) },
	} {
		s := good
		change(&s)
		if err := s.check(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	if err := Run(t.Context(), "x", func(context.Context) error { return broken }); err != broken {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, "x", func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Errorf("being told to end is an error: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	err = Run(ctx, "x", func(context.Context) error { cancel(); return broken })
	if err != broken {
		t.Errorf("an error while ending is lost: %v", err)
	}
	if err := Run(t.Context(), "x", func(context.Context) error { return context.Canceled }); err != context.Canceled {
		t.Errorf("a cancellation of f's own is lost: %v", err)
	}
}
