package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"samehost/internal/config"
	"samehost/internal/osservice"
)

const serviceName = "samehost-client"

// service starts this very file with the configuration that it is registered with.
func (p *program) service(cfg config.Client) (osservice.Service, error) {
	exe, err := os.Executable()
	if err != nil {
		return osservice.Service{}, err
	}
	path, err := filepath.Abs(p.config)
	if err != nil {
		return osservice.Service{}, err
	}
	return osservice.Service{
		Name:        serviceName,
		DisplayName: "samehost client",
		Description: "samehost client: keeps this PC's host ID and checks in",
		Exec:        exe,
		Args:        []string{"run", "--config", path},
		Writable:    []string{cfg.DataDir},
	}, nil
}

// register makes this program start with the machine, and starts it.
func (p *program) register(ctx context.Context, cfg config.Client) error {
	s, err := p.service(cfg)
	if err == nil {
		err = s.Install(ctx)
	}
	if errors.Is(err, osservice.ErrNoManager) {
		return fmt.Errorf("%w, and install with --no-service", err)
	}
	return err
}

func (p *program) unregister(ctx context.Context, cfg config.Client) error {
	s, err := p.service(cfg)
	if err != nil {
		return err
	}
	return s.Uninstall(ctx)
}
