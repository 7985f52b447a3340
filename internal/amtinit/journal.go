package amtinit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// JournalFolder is the folder of the journals, beside DCMAMT.LOG.
const JournalFolder = "initializations"

// journalFormat is the format that this program writes, and the newest it reads.
const journalFormat = 1

const (
	// maxJournalLine bounds a line in bytes. The longest that is written has a path of 4096 characters or a detail of
	// 1000, each of them an escape of up to 11 bytes.
	maxJournalLine = 64 << 10

	// maxJournalGap is how long something that is no line may be for the lines behind it to be looked for, in bytes. What a
	// file system leaves that lost power is far shorter; a file of zeros without an end would be read for hours.
	maxJournalGap = 16 << 20

	// maxJournalPart bounds what one ReadJournal holds: lines, and the bytes they were read from.
	maxJournalPart      = 1000
	maxJournalPartBytes = 1 << 20
)

// Errors of journals that a caller tells apart.
var (
	// ErrJournalFormat: a newer release wrote this journal.
	ErrJournalFormat = errors.New("a newer release wrote this journal")
	// ErrJournalDamaged: the journal's first line cannot be read.
	ErrJournalDamaged = errors.New("the first line of the journal is damaged")
)

// The lines of a journal: see docs/protocol/journal.md. Exactly one of the three is set; none in a line that cannot be
// read, which loses no more than that one outcome: a reader counts it and goes on.
type JournalLine struct {
	Run    *JournalRun    `json:"run,omitempty"`
	Target *JournalTarget `json:"target,omitempty"`
	End    *JournalEnd    `json:"end,omitempty"`
}

// JournalRun begins a journal, and each further run that goes on with it.
type JournalRun struct {
	Format     int       `json:"format"` // 1
	Program    string    `json:"program"`
	Source     string    `json:"source"` // the full path after /f, or the host or address
	Digest     string    `json:"digest"` // SHA-256 of the file, hex; "" without /f
	Targets    int       `json:"targets"`
	Mode       string    `json:"mode"` // all, resume or retry-failed
	Started    time.Time `json:"started"`
	By         string    `json:"by"`      // the operating system's name of who ran it
	Machine    string    `json:"machine"` // where
	Enterprise string    `json:"enterprise"`
}

// JournalTarget is a finished target. Of several lines for one host the last counts.
type JournalTarget struct {
	Host         string    `json:"host,omitempty"`
	Address      string    `json:"address,omitempty"` // where it answered, else the file's
	Finished     time.Time `json:"finished"`
	OK           bool      `json:"ok"`
	Already      bool      `json:"already,omitempty"`
	Done         []string  `json:"done,omitempty"` // as in --json
	Reason       Code      `json:"reason,omitempty"`
	Step         Step      `json:"step,omitempty"`
	Status       uint32    `json:"status,omitempty"`
	Detail       string    `json:"detail,omitempty"`
	PlatformGUID string    `json:"platform_guid,omitempty"` // raw SMBIOS byte order, 32 upper-case hex digits
	Version      string    `json:"amt_version,omitempty"`
	Milliseconds int64     `json:"milliseconds"`
	Number       int       `json:"number,omitempty"` // of a part of a run that a manager has split (PartTarget)
}

// JournalEnd says that a run came to its end by itself.
type JournalEnd struct {
	Finished time.Time `json:"finished"`
	ExitCode int       `json:"exit_code"`
}

// JournalFile is a journal in a folder.
type JournalFile struct {
	Path string
	Key  string // names the source: equal for every journal of one file, host or address
	N    int    // grows by one with each run that begins anew
	Size int64  // bytes
}

// ListJournals lists the journals of a folder (data_dir/JournalFolder), sorted by key and number. A folder that does not
// exist has none.
func ListJournals(dir string) ([]JournalFile, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the journals: %w", err)
	}
	var list []JournalFile
	for _, e := range entries {
		key, n, ok := parseJournalName(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the journals: %w", err)
		}
		list = append(list, JournalFile{Path: filepath.Join(dir, e.Name()), Key: key, N: n, Size: info.Size()})
	}
	slices.SortFunc(list, func(a, b JournalFile) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.N, b.N)) })
	return list, nil
}

const journalSuffix = ".journal"

// parseJournalName splits KEY.NNNNNN.journal.
func parseJournalName(name string) (key string, n int, ok bool) {
	rest, ok := strings.CutSuffix(name, journalSuffix)
	dot := strings.LastIndexByte(rest, '.')
	if !ok || dot <= 0 || len(rest)-dot-1 < 6 || len(rest)-dot-1 > 9 {
		return "", 0, false
	}
	for _, c := range []byte(rest[dot+1:]) {
		if c < '0' || c > '9' {
			return "", 0, false
		}
	}
	n, err := strconv.Atoi(rest[dot+1:])
	return rest[:dot], n, err == nil
}

// ReadJournal reads whole lines of a journal from an offset in bytes, also while a run writes it: at most a thousand, never
// a half one. next is where to go on; the journal is read once next equals from. A run's outcomes belong to the last Run
// before them, which a caller that goes on later has to remember.
//
// An offset that is not behind a line any more (power was lost, and the file has not all that was read of it) begins at the
// start again: what was read before may come twice. It fails with ErrJournalFormat where a newer release went on. With any
// error lines and next are what comes before.
func ReadJournal(path string, from int64) (lines []JournalLine, next int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, from, fmt.Errorf("read the journal: %w", err)
	}
	defer f.Close()
	if from > 0 {
		var before [1]byte
		if _, err := f.ReadAt(before[:], from-1); err != nil && err != io.EOF {
			return nil, from, fmt.Errorf("read the journal: %w", err)
		}
		if before[0] != '\n' {
			from = 0
		}
	}
	if _, err := f.Seek(max(from, 0), io.SeekStart); err != nil {
		return nil, from, fmt.Errorf("read the journal %s: %w", path, err)
	}
	r := journalReader{r: bufio.NewReaderSize(f, maxJournalLine), at: max(from, 0)}
	for len(lines) < maxJournalPart && r.at-max(from, 0) < maxJournalPartBytes {
		at := r.at
		line, err := r.next()
		switch {
		case err == io.EOF:
			return lines, at, nil
		case err != nil:
			return lines, at, fmt.Errorf("read the journal %s: %w", path, err)
		}
		lines = append(lines, line)
	}
	return lines, r.at, nil
}

// JournalHead tells a journal from others under its name, by the first line: the time of its run stands in it. It is "" where
// there is no whole one yet.
func JournalHead(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	line, err := bufio.NewReaderSize(f, maxJournalLine).ReadSlice('\n')
	if err == io.EOF {
		return "", nil
	}
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return "", err
	}
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:16]), nil
}

// journalReader walks through the whole lines of a journal in bounded memory. at is the offset behind the last.
type journalReader struct {
	r  *bufio.Reader // of maxJournalLine bytes
	at int64
}

// next is the next whole line; io.EOF where none is left, whatever half line follows.
func (r *journalReader) next() (JournalLine, error) {
	text, err := r.r.ReadSlice('\n')
	size, whole := int64(len(text)), err == nil
	for err == bufio.ErrBufferFull {
		if size > maxJournalGap {
			return JournalLine{}, fmt.Errorf("a line is longer than %d MiB: this is no journal, or all behind it is lost", maxJournalGap>>20)
		}
		text, err = r.r.ReadSlice('\n')
		size += int64(len(text))
	}
	if err != nil {
		return JournalLine{}, err
	}
	var line JournalLine
	if whole {
		if line, err = parseJournalLine(text); err != nil {
			return JournalLine{}, err
		}
	}
	r.at += size
	return line, nil
}

// parseJournalLine reads a line, or nothing where it is none of ours; its only error is ErrJournalFormat. Texts are printable
// afterwards, as long as the line at most.
func parseJournalLine(text []byte) (JournalLine, error) {
	// Whatever a newer format changes, this much stays where it is.
	var version struct {
		Run struct {
			Format int `json:"format"`
		} `json:"run"`
	}
	if bytes.Contains(text, []byte(`"format"`)) && json.Unmarshal(text, &version) == nil && version.Run.Format > journalFormat {
		return JournalLine{}, fmt.Errorf("%w: format %d, this release reads up to %d", ErrJournalFormat, version.Run.Format, journalFormat)
	}
	var line JournalLine
	if json.Unmarshal(text, &line) != nil || !line.sound() {
		return JournalLine{}, nil
	}
	printable := func(texts ...*string) {
		for _, s := range texts {
			*s = Printable(*s, maxJournalLine)
		}
	}
	if r := line.Run; r != nil {
		printable(&r.Program, &r.Source, &r.Digest, &r.Mode, &r.By, &r.Machine, &r.Enterprise)
	}
	if t := line.Target; t != nil {
		t.clean()
	}
	return line, nil
}

// clean makes texts printable, as long as a line at most.
func (t *JournalTarget) clean() {
	for _, s := range []*string{&t.Host, &t.Address, (*string)(&t.Reason), (*string)(&t.Step), &t.Detail, &t.Version} {
		*s = Printable(*s, maxJournalLine)
	}
	for i := range t.Done {
		t.Done[i] = Printable(t.Done[i], maxJournalLine)
	}
	if !isPlatformGUID(t.PlatformGUID) {
		t.PlatformGUID = ""
	}
}

// sound reports a line that says one thing, and all of it.
func (l JournalLine) sound() bool {
	switch {
	case l.Run != nil:
		return l.Target == nil && l.End == nil && l.Run.Format == journalFormat && l.Run.Targets >= 0
	case l.Target != nil:
		t := l.Target
		return l.End == nil && (t.Host != "" || t.Address != "") && t.OK == (t.Reason == "")
	}
	return l.End != nil
}

func isPlatformGUID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return len(s) == 32
}
