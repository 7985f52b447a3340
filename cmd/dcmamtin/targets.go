package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"samehost/internal/amtinit"
	"samehost/internal/config"
	"samehost/internal/sysconfig"
)

// targetList is what the command line names: counted beforehand, then walked through. One key per host is kept.
type targetList struct {
	source string // the cleaned full path after /f, or the host or address
	count  int
	digest string         // SHA-256 of the file, hex; "" without /f
	one    amtinit.Target // without a file

	// pending holds the hosts that are still to be yielded: all of them at first.
	pending map[amtinit.HostKey]struct{}

	file *digestedFile // nil without /f
	err  *problem      // what went wrong while walking through; nil if nothing did
}

// openTargets reads the whole file once, so that a line that is wrong at its end is found before a PC is touched.
func openTargets(a arguments) (*targetList, *problem) {
	l := &targetList{pending: make(map[amtinit.HostKey]struct{})}
	if a.file == "" {
		l.one = amtinit.Target{Host: a.host, Address: a.address}
		l.source, l.count = strings.ToLower(strings.TrimSuffix(l.one.String(), ".")), 1
		l.pending[l.one.Key()] = struct{}{}
		return l, nil
	}
	// Opening a pipe would wait for its writer, and it could not be read twice.
	if info, err := os.Stat(a.file); err != nil {
		return nil, newProblem(exitFile, textCannotOpen, a.file, config.Bare(err))
	} else if !info.Mode().IsRegular() {
		return nil, newProblem(exitFile, textNotRegular, a.file)
	}
	f, err := os.Open(a.file)
	if err != nil {
		return nil, newProblem(exitFile, textCannotOpen, a.file, config.Bare(err))
	}
	l.source, l.file = filepath.Clean(a.file), &digestedFile{File: f, hash: sha256.New()}
	for e, err := range sysconfig.Read(l.file) {
		if err != nil {
			l.close()
			return nil, newProblem(exitFile, textBadFile, fmt.Errorf("%s: %w", a.file, err))
		}
		if e.Target() {
			l.pending[amtinit.Target{Host: e.Name}.Key()] = struct{}{}
		}
	}
	l.count, l.digest = len(l.pending), l.file.digest()
	if l.count == 0 {
		l.close()
		return nil, newProblem(exitFile, textNoClient, a.file)
	}
	return l, nil
}

func (l *targetList) close() {
	if l.file != nil {
		l.file.Close()
	}
}

// until yields the pending targets for the engine and ends early once stop is set: the clients and relay systems of the
// file, each host once, whatever the case of its letters. The file was whole when it was counted; if it is not the same now,
// err says that it changed underneath, and no host that was not counted is yielded.
func (l *targetList) until(stop *atomic.Bool) iter.Seq[amtinit.Target] {
	return func(yield func(amtinit.Target) bool) {
		if len(l.pending) == 0 || stop.Load() {
			return
		}
		if l.file == nil {
			yield(l.one)
			return
		}
		changed := newProblem(exitOther, textFileChanged, l.file.Name())
		for e, err := range sysconfig.Read(l.file) {
			if stop.Load() {
				return
			}
			if err != nil {
				l.err = changed
				return
			}
			t := amtinit.Target{Host: e.Name, Address: e.Address}
			key := t.Key()
			if _, wanted := l.pending[key]; !wanted || !e.Target() {
				continue
			}
			delete(l.pending, key)
			if !yield(t) {
				return
			}
		}
		if l.file.digest() != l.digest {
			l.err = changed
		}
	}
}

// digestedFile computes the SHA-256 of a file while it is read from its beginning to its end. Seeking goes to where reading
// begins: what is skipped there, a byte order mark, counts.
type digestedFile struct {
	*os.File
	hash hash.Hash
}

func (f *digestedFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	f.hash.Write(b[:n])
	return n, err
}

func (f *digestedFile) Seek(offset int64, whence int) (int64, error) {
	at, err := f.File.Seek(offset, whence)
	if err != nil {
		return at, err
	}
	f.hash.Reset()
	_, err = io.Copy(f.hash, io.NewSectionReader(f.File, 0, at))
	return at, err
}

func (f *digestedFile) digest() string { return hex.EncodeToString(f.hash.Sum(nil)) }
