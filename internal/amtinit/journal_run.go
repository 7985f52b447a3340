package amtinit

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode"
)

// Errors of a run that wants a journal.
var (
	// ErrJournalBusy: another run over the same file, host or address is going on.
	ErrJournalBusy = errors.New("another run over the same targets is going on")
	// ErrNoJournal: no run over this file, host or address was ever begun.
	ErrNoJournal = errors.New("there is no journal of an earlier run")
)

const (
	maxJournalName   = 400  // characters of a host name
	maxJournalSource = 4096 // characters of a path, PATH_MAX of Linux
	maxJournalStem   = 40   // characters of a source in a file name
)

// HostKey tells hosts apart in bounded memory, whatever the case of their letters: the beginning of a SHA-256.
type HostKey [16]byte

// Key is the target's, equal for the spellings of a host name that mean the same host.
func (t Target) Key() HostKey {
	return hostKey(Printable(t.String(), maxJournalName))
}

// Key is that of the Target that finished.
func (t *JournalTarget) Key() HostKey {
	if t.Host == "" {
		return hostKey(t.Address)
	}
	return hostKey(t.Host)
}

func hostKey(name string) HostKey {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.TrimSuffix(name, "."))))
	return HostKey(sum[:16])
}

// Name is what outcomes call the target by.
func (t *JournalTarget) Name() string {
	if t.Host == "" {
		return t.Address
	}
	return t.Host
}

// JournalKey is the Key of the journals of a source: a cleaned full path, a host name or an address. A part of it is for
// people, the rest keeps sources apart.
func JournalKey(source string) string {
	if runtime.GOOS == "windows" { // whose file names have no case
		source = strings.ToLower(source)
	}
	stem := source[strings.LastIndexAny(source, `/\`)+1:]
	stem = strings.Map(func(r rune) rune {
		// No dot: Windows has no file CON.NDD-1.
		if r != unicode.ReplacementChar && (unicode.IsLetter(r) || unicode.IsDigit(r)) || r == '_' {
			return r
		}
		return '-'
	}, stem)
	if runes := []rune(stem); len(runes) > maxJournalStem {
		stem = string(runes[:maxJournalStem])
	}
	sum := sha256.Sum256([]byte(source))
	return stem + "-" + hex.EncodeToString(sum[:4])
}

// PastRun is what the newest journal of a source knows.
type PastRun struct {
	Path       string
	Run        *JournalRun // the last run that began; nil where power was lost before its line was whole
	End        *JournalEnd // how that run ended; nil if it was broken off
	Unreadable int         // lines that could not be read: their targets are done again

	whole int64 // bytes up to the end of the last whole line
}

// LoadJournal reads the newest journal of a source in a folder, and hands each finished target to each, in the order they
// finished: of several for one host the last counts. It fails with ErrNoJournal, ErrJournalDamaged or ErrJournalFormat.
func LoadJournal(dir, source string, each func(*JournalTarget)) (*PastRun, error) {
	newest, err := newestJournal(dir, source)
	if err != nil {
		return nil, err
	}
	if newest.N == 0 {
		return nil, ErrNoJournal
	}
	f, err := os.Open(newest.Path)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	defer f.Close()
	p := &PastRun{Path: newest.Path}
	r := journalReader{r: bufio.NewReaderSize(f, maxJournalLine)}
	for first := true; ; first = false {
		line, err := r.next()
		if err == io.EOF {
			p.whole = r.at
			return p, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the journal %s: %w", p.Path, err)
		}
		switch {
		case first && line.Run == nil:
			return nil, fmt.Errorf("read the journal %s: %w", p.Path, ErrJournalDamaged)
		case line.Run != nil:
			p.Run, p.End = line.Run, nil
		case line.End != nil:
			p.End = line.End
		case line.Target == nil:
			p.Unreadable++
		case line.Target.Reason != NotTried && line.Target.Reason != Interrupted: // no run writes these: they are not finished
			each(line.Target)
		}
	}
}

// newestJournal is the source's journal with the highest number; its N is 0 if there is none.
func newestJournal(dir, source string) (newest JournalFile, err error) {
	list, err := ListJournals(dir)
	key := JournalKey(source)
	for _, f := range list {
		if f.Key == key {
			newest = f
		}
	}
	return newest, err
}

// Journals are the journals of one source, held by this process so that no other run writes them.
type Journals struct {
	dir, source string
	lock        *os.File
}

// HoldJournals makes the folder if need be and takes the source's lock, which Close gives back, and so does the end of the
// process however it comes. It fails with ErrJournalBusy while another run over the source is going on. The folder above
// has to exist.
func HoldJournals(dir, source string) (*Journals, error) {
	if err := os.Mkdir(dir, 0o750); err == nil {
		if err := syncFolder(filepath.Dir(dir)); err != nil {
			return nil, fmt.Errorf("make the folder of the journals: %w", err)
		}
	} else if !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make the folder of the journals: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, JournalKey(source)+".lock"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock the journals: %w", err)
	}
	free, err := tryLock(f)
	if err == nil && !free {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		err = fmt.Errorf("%w (process %s)", ErrJournalBusy, Printable(strings.TrimSpace(string(holder[:n])), 20))
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(io.NewOffsetWriter(f, 0), "%d\n", os.Getpid()) // for whom we turn away
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the journals: %w", err)
	}
	return &Journals{dir: dir, source: source, lock: f}, nil
}

// Close gives the lock back.
func (j *Journals) Close() error { return j.lock.Close() }

// Begin makes the source's next journal, with the line of a run that begins: Format, Source, Started, By and Machine are
// filled in. The journal is on the disk when Begin returns.
func (j *Journals) Begin(run JournalRun) (*Journal, error) {
	newest, err := newestJournal(j.dir, j.source)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(j.dir, fmt.Sprintf("%s.%06d%s", JournalKey(j.source), newest.N+1, journalSuffix))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, fmt.Errorf("make the journal: %w", err)
	}
	journal := &Journal{f: f}
	if err := errors.Join(journal.begin(j.source, run), syncFolder(j.dir)); err != nil {
		f.Close()
		return nil, fmt.Errorf("make the journal: %w", err)
	}
	return journal, nil
}

// Continue goes on with the journal that LoadJournal read, behind its last whole line: what stands there is half a line,
// or the zeros of a file system that lost power.
func (j *Journals) Continue(p *PastRun, run JournalRun) (*Journal, error) {
	f, err := os.OpenFile(p.Path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("go on with the journal: %w", err)
	}
	journal := &Journal{f: f}
	err = f.Truncate(p.whole)
	if err == nil {
		_, err = f.Seek(p.whole, io.SeekStart)
	}
	if err == nil {
		err = journal.begin(j.source, run)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("go on with the journal: %w", err)
	}
	return journal, nil
}

// Journal writes the outcomes of one run. Between Start and Stop it takes outcomes from any goroutine.
type Journal struct {
	f     *os.File
	err   error // the first one: nothing is written after it
	queue chan Outcome
	gone  chan struct{}
}

func (j *Journal) begin(source string, run JournalRun) error {
	run.Format, run.Source = journalFormat, Printable(source, maxJournalSource)
	run.Program, run.Enterprise = Printable(run.Program, 100), Printable(run.Enterprise, 100)
	run.Started = journalTime(time.Now())
	run.By = Printable(whoRuns(), 256)
	if name, err := os.Hostname(); err == nil {
		run.Machine = Printable(name, 256)
	}
	return j.write(JournalLine{Run: &run})
}

// journalBatch is how many outcomes may wait for the disk: what comes meanwhile is written together.
const journalBatch = 1024

// Start makes ready for outcomes. Each that Finish gets is handed to shown, one at a time and in that order, when it is on the
// disk; so nothing is claimed that a loss of power could take back. Everything that arrives while the disk is busy is
// written with one sync. When writing fails, failed is called once, and of the outcomes that are not on the disk none is shown.
//
// What is no end of a target (NotTried, Interrupted) is shown and not written.
func (j *Journal) Start(shown func(Outcome), failed func(error)) {
	j.queue, j.gone = make(chan Outcome, journalBatch), make(chan struct{})
	go func() {
		defer close(j.gone)
		for o := range j.queue {
			batch := []Outcome{o}
			for more := true; more && len(batch) < journalBatch; {
				select {
				case o, ok := <-j.queue:
					if more = ok; ok {
						batch = append(batch, o)
					}
				default:
					more = false
				}
			}
			var lines []JournalLine
			for _, o := range batch {
				if isFinished(o) {
					lines = append(lines, JournalLine{Target: journalTarget(o)})
				}
			}
			before := j.err
			if err := j.write(lines...); err != nil && before == nil {
				failed(err)
			}
			for _, o := range batch {
				if j.err == nil || !isFinished(o) {
					shown(o)
				}
			}
		}
	}()
}

// Finish takes an outcome. It waits where the disk is more than a thousand behind.
func (j *Journal) Finish(o Outcome) { j.queue <- o }

// Stop waits until every outcome was handed on, and returns why writing failed, if it did.
func (j *Journal) Stop() error {
	close(j.queue)
	<-j.gone
	return j.err
}

// End writes that the run came to its end by itself, with that exit code.
func (j *Journal) End(exitCode int) error {
	return j.write(JournalLine{End: &JournalEnd{Finished: journalTime(time.Now()), ExitCode: exitCode}})
}

// Close ends the writing. A journal without End is one to resume.
func (j *Journal) Close() error { return j.f.Close() }

// write puts lines on the disk. After a failure nobody knows what is there, and trying again would not tell: Linux reports a
// page that it could not write once.
func (j *Journal) write(lines ...JournalLine) error {
	if j.err != nil || len(lines) == 0 {
		return j.err
	}
	var text []byte
	for _, l := range lines {
		b, err := json.Marshal(l)
		if err != nil {
			panic(err) // the structs hold nothing that cannot be marshalled
		}
		text = append(append(text, b...), '\n')
	}
	_, err := j.f.Write(text)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.err = fmt.Errorf("write the journal: %w", err)
	}
	return j.err
}

func isFinished(o Outcome) bool { return o.Code != NotTried && o.Code != Interrupted }

func journalTarget(o Outcome) *JournalTarget {
	t := &JournalTarget{
		Host:         Printable(o.Host, maxJournalName),
		Finished:     journalTime(time.Now()),
		OK:           o.OK(),
		Done:         o.Done(),
		Reason:       o.Code,
		Step:         o.Step,
		Status:       uint32(o.Status),
		Version:      Printable(o.Result.About.Version, 100),
		Milliseconds: o.Took.Milliseconds(),
		Number:       o.Number,
	}
	t.Already = t.OK && o.Result.AlreadyInitialized()
	if o.Host != "" && o.Reached.IsValid() {
		t.Address = o.Reached.Addr().String()
	} else if o.Address.IsValid() {
		t.Address = o.Address.String()
	}
	if o.Err != nil {
		t.Detail = Printable(o.Err.Error(), maxLogText)
	}
	if isPlatformGUID(o.Result.About.PlatformGUID) {
		t.PlatformGUID = o.Result.About.PlatformGUID
	}
	return t
}

// Done says what was changed on a device that is initialized now: enterprise-added, allocation-added, allocation-enlarged.
// These words never change their meaning.
func (o Outcome) Done() []string {
	var list []string
	for _, d := range []struct {
		did  bool
		name string
	}{
		{o.Result.EnterpriseAdded, "enterprise-added"},
		{o.Result.AllocationAdded, "allocation-added"},
		{o.Result.AllocationEnlarged, "allocation-enlarged"},
	} {
		if d.did && o.OK() {
			list = append(list, d.name)
		}
	}
	return list
}

func journalTime(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// whoRuns is the operating system's name of the person: whoever called sudo, if this is root by it.
func whoRuns() string {
	name := ""
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if by := os.Getenv("SUDO_USER"); by != "" && os.Geteuid() == 0 {
		return by + " (sudo)"
	}
	if name == "" {
		return fmt.Sprintf("uid %d", os.Getuid())
	}
	return name
}
