package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"samehost/internal/relay"
	"samehost/internal/sysconfig"
)

type sysconfigCmd struct {
	Export sysconfigExportCmd `cmd:"" help:"Write this relay and the hosts below it, for dcmamtin /f." example:"sysconfig export /tmp/site.NDD; sysconfig export /tmp/site.NDD --encoding shift_jis"`
}

type sysconfigExportCmd struct {
	File     string `arg:"" name:"file" help:"File to write, as site.NDD; one that is there is replaced."`
	Encoding string `default:"utf-8" enum:"utf-8,shift_jis" placeholder:"NAME" help:"utf-8 (default) or shift_jis."`
}

// Run only reads the data folder, whether the relay works there or not.
func (c *sysconfigExportCmd) Run(ctx context.Context, p *program) error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	enc, err := sysconfig.ParseEncoding(c.Encoding)
	if err != nil {
		return err
	}
	entries, remarks, err := relay.SystemConfiguration(conf.DataDir, enc)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no relay has taken check-ins in %s yet: start it with samehost-relay serve", conf.DataDir)
	}
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := sysconfig.Write(&b, slices.Values(entries), enc); err != nil {
		return err
	}
	if info, err := os.Stat(c.File); err == nil && info.IsDir() {
		return fmt.Errorf("export: %s is a folder; name a file in it", c.File)
	}
	if err := replaceFile(c.File, b.Bytes()); err != nil {
		return fmt.Errorf("export: %w; name a place where you may write", err)
	}
	for _, r := range remarks {
		p.say(r)
	}
	if p.json {
		return json.NewEncoder(p.stdout).Encode(map[string]any{"file": c.File, "hosts": len(entries), "remarks": append([]string{}, remarks...)})
	}
	_, err = fmt.Fprintf(p.stdout, "%s: exported %d\n", c.File, len(entries))
	return err
}

// replaceFile makes a file hold data, for everybody to read: nothing in it is secret. Whoever owns the folder may put a link in the file's
// place at any moment, so that nothing is done to it by its name but the renaming.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
