package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"samehost/internal/manager"
	"samehost/internal/registry"
	"samehost/internal/sysconfig"
)

type sysconfigCmd struct {
	Export sysconfigExportCmd `cmd:"" help:"Write the file that dcmamtin /f reads." example:"sysconfig export /tmp/pcs.NDD; sysconfig export /tmp/pcs.NDD --encoding shift_jis"`
}

type sysconfigExportCmd struct {
	File     string `arg:"" name:"file" help:"File to write, as pcs.NDD; one that is there is replaced."`
	Encoding string `default:"utf-8" placeholder:"NAME" help:"utf-8 (default) or shift_jis."`
}

func (c *sysconfigExportCmd) Run(ctx context.Context, p *program) error {
	enc, err := sysconfig.ParseEncoding(c.Encoding)
	if err != nil {
		return usageError(err.Error())
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		entries, remarks, err := reg.SystemConfiguration(ctx, enc)
		if err != nil {
			return err
		}
		if info, err := os.Stat(c.File); err == nil && info.IsDir() {
			return fmt.Errorf("export: %s is a folder; name a file in it", c.File)
		}
		err = replaceFile(c.File, 0o644, func(f *os.File) error { return sysconfig.Write(f, slices.Values(entries), enc) })
		if err != nil {
			return fmt.Errorf("export: %w", manager.CannotWrite(c.File, err))
		}
		for _, r := range remarks {
			p.say(r)
		}
		if p.json {
			return p.printJSON(map[string]any{"file": c.File, "hosts": len(entries), "remarks": append([]string{}, remarks...)})
		}
		fmt.Fprintf(p.stdout, "%s: %d hosts\n", shown(c.File), len(entries))
		return nil
	})
}

// replaceFile writes a whole file under a temporary name and puts it in place.
func replaceFile(path string, mode os.FileMode, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = write(f)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
