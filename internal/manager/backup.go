package manager

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Backup writes a tar file with everything that makes a manager: a copy of its database as of this moment, its
// keys, its CA and its configuration. Unpacked into an empty folder of the same name it is that manager again. It
// works beside a running server. The file must not exist yet, is readable by its owner only, and is there whole or
// not at all.
func Backup(ctx context.Context, dir, database, config, file string) (err error) {
	reg, err := OpenRegistry(ctx, dir, database)
	if err != nil {
		return err
	}
	defer reg.Close()
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("backup: %s is there already; name a new file", file)
	}
	failed := func(err error) error { return fmt.Errorf("backup: %w", CannotWrite(file, err)) }
	// Beside the target: there is room where the backup goes, or there is none at all.
	work, err := os.MkdirTemp(filepath.Dir(file), ".samehost-backup-*")
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(work)
	if err := protect(work); err != nil {
		return failed(err)
	}
	copied := filepath.Join(work, databaseFile)
	if err := reg.Backup(ctx, copied); err != nil {
		return failed(err)
	}
	packed := filepath.Join(work, "tar")
	err = pack(packed, []packing{
		{configFile, config}, {keyFile, filepath.Join(dir, keyFile)}, {caFile, filepath.Join(dir, caFile)},
		{caKeyFile, filepath.Join(dir, caKeyFile)}, {databaseFile, copied},
	})
	switch {
	case isFull(err):
		return failed(err)
	case err != nil: // of what is read
		return fmt.Errorf("backup: %w", err)
	}
	// A link, not a rename: it fails if somebody made the file meanwhile.
	if err := os.Link(packed, file); err != nil {
		return failed(err)
	}
	return syncFolder(filepath.Dir(file))
}

type packing struct{ name, path string }

func pack(file string, parts []packing) (err error) {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	for _, part := range parts {
		if err := packOne(w, part); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Sync()
}

func packOne(w *tar.Writer, part packing) error {
	f, err := os.Open(part.path)
	if err != nil {
		return permission(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	head := &tar.Header{Name: part.name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime().Truncate(time.Second), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(head); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
