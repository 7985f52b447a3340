//go:build !windows

package relay

import (
	"errors"
	"os"
	"syscall"
)

// syncFolder makes the names in a folder durable. File systems that cannot say EINVAL.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
