package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"samehost/internal/config"
	"samehost/internal/hostid"
	"samehost/internal/manager"
	"samehost/internal/registry"
	"samehost/internal/sysconfig"
)

type sysconfigCmd struct {
	Export sysconfigExportCmd `cmd:"" help:"Write the file that dcmamtin /f reads." example:"sysconfig export /tmp/pcs.NDD; sysconfig export /tmp/pcs.NDD --encoding shift_jis"`
	Import sysconfigImportCmd `cmd:"" help:"Take hosts from such a file, or from a hosts file." example:"sysconfig import /tmp/NETM.NDD; sysconfig import /etc/hosts --json"`
}

type sysconfigExportCmd struct {
	File     string `arg:"" name:"file" help:"File to write, as pcs.NDD; one that is there is replaced."`
	Encoding string `default:"utf-8" placeholder:"NAME" help:"utf-8 (default) or shift_jis."`
	Below    string `placeholder:"HOSTID" help:"Only this relay and what reports through it."`
}

func (c *sysconfigExportCmd) Run(ctx context.Context, p *program) error {
	enc, err := sysconfig.ParseEncoding(c.Encoding)
	if err != nil {
		return usageError(err.Error())
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		var below hostid.ID
		if c.Below != "" {
			var err error
			if below, err = hostid.ParseID(strings.ToLower(c.Below)); err != nil {
				return usageError("--below: " + err.Error())
			}
		}
		entries, remarks, err := reg.SystemConfiguration(ctx, enc, below)
		if errors.Is(err, registry.ErrUnknown) {
			return fmt.Errorf("--below: %w: samehost-manager relays lists those that are known", err)
		}
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
		p.paragraph("", p.in("%s: exported %d", c.File, len(entries)))
		return nil
	})
}

type sysconfigImportCmd struct {
	File string `arg:"" name:"file" help:"File to read; nothing is imported unless every line of it is right."`
}

func (c *sysconfigImportCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		// Opening a pipe would wait for its writer, and it could not be read twice.
		info, err := os.Stat(c.File)
		if err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("import: %s is not a file; check the path", c.File)
		}
		var f *os.File
		if err == nil {
			f, err = os.Open(c.File)
		}
		if err != nil {
			return fmt.Errorf("import: %s: %w; check the path, and that you may read it", c.File, config.Bare(err))
		}
		defer f.Close()
		full, err := filepath.Abs(c.File)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		done, err := reg.ImportSystemConfiguration(ctx, full, systemUser(), sysconfig.Read(f))
		var wrong *sysconfig.SyntaxError
		switch {
		case errors.As(err, &wrong):
			return fmt.Errorf("import: %s: %w; correct the line, nothing was imported", c.File, err)
		case err != nil:
			return fmt.Errorf("import: %s: %w", c.File, err)
		}
		for _, r := range done.Remarks {
			p.say(c.File + ": " + r)
		}
		if p.json {
			return p.printJSON(struct {
				File string `json:"file"`
				registry.Imported
			}{c.File, done})
		}
		p.paragraph("", p.in("%s: added %d, changed %d, unchanged %d", c.File, done.Added, done.Changed, done.Unchanged))
		return nil
	})
}

// systemUser is who runs this command, as the system calls him.
func systemUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint("uid ", os.Getuid()) // an account that the system has no name for
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
