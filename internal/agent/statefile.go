package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"samehost/internal/hostid"
)

// A state file is one JSON object: the version of its form, a checksum, and the content it is computed over. A
// torn or decayed file is thus told from a whole one, whatever digits it still has.
type stateFile struct {
	Version int             `json:"version"`
	CRC32C  string          `json:"crc32c"` // of the content's bytes as they stand, 8 hex digits
	Content json.RawMessage `json:"content"`
}

const (
	stateVersion = 1
	stateBound   = 1 << 20 // bytes; four times what the largest content comes to
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }

// writeState makes path hold content, durably: old or new, never a mixture.
func writeState(path string, content any) error {
	b, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	b, err = json.Marshal(stateFile{stateVersion, checksum(b), b})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return hostid.WriteFileDurably(path, append(b, '\n'))
}

// readState reads what writeState wrote. The error wraps fs.ErrNotExist, hostid.ErrNewer, hostid.ErrCorrupt, or
// says why the file cannot be read.
func readState(path string, content any) error {
	b, err := hostid.ReadRegularFile(path, stateBound)
	if err == nil {
		err = parseState(b, content)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return err
}

func parseState(b []byte, content any) error {
	var any struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(b, &any) == nil && any.Version > stateVersion {
		return hostid.ErrNewer
	}
	var f stateFile
	if err := strictJSON(b, &f); err != nil {
		return fmt.Errorf("%w: %w", hostid.ErrCorrupt, err)
	}
	if f.Version != stateVersion || f.CRC32C != checksum(f.Content) {
		return fmt.Errorf("%w: version or checksum is wrong", hostid.ErrCorrupt)
	}
	if err := strictJSON(f.Content, content); err != nil {
		return fmt.Errorf("%w: %w", hostid.ErrCorrupt, err)
	}
	return nil
}

// strictJSON decodes one JSON value and nothing else; an unknown member is an error.
func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the value")
	}
	return nil
}

// setAside keeps a copy of a file under a dated name and returns that name. The file itself stays until it is
// written over, so that a crash in between changes nothing; the same content is kept once.
func setAside(path, why string, now time.Time) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, stateBound))
	f.Close()
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if name := filepath.Join(filepath.Dir(path), e.Name()); strings.HasPrefix(name, path+"."+why+"-") {
			if old, err := hostid.ReadRegularFile(name, stateBound); err == nil && bytes.Equal(old, b) {
				return name, nil
			}
		}
	}
	name := fmt.Sprintf("%s.%s-%s", path, why, now.UTC().Format("20060102T150405.000Z"))
	return name, hostid.WriteFileDurably(name, b)
}
