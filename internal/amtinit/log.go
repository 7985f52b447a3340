package amtinit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The log's name, and its size as the manual has it for this class of logs.
const (
	LogName        = "DCMAMT.LOG"
	LogLines       = 2000
	LogGenerations = 5 // DCMAMT.LOG and DCMAMT.LOG.1 to .4

	maxLogText = 1000 // characters of one field that a device or a file wrote
)

// Messages of the log that are no reasons.
var (
	logStart   = message{"SHAM0001-I", Text{"Initialization of AMT nonvolatile memory started.", "AMTの不揮発性メモリの初期設定を開始しました。"}}
	logAllOK   = message{"SHAM0002-I", Text{"Initialization finished: every target is initialized.", "初期設定が終了しました。すべての実行先で成功しました。"}}
	logSomeBad = message{"SHAM0003-W", Text{"Initialization finished: at least one target failed.", "初期設定が終了しました。少なくとも1台の実行先で失敗しました。"}}
	logAllBad  = message{"SHAM0004-E", Text{"Initialization finished: every target failed.", "初期設定が終了しました。すべての実行先で失敗しました。"}}
	logStopped = message{"SHAM0005-E", Text{"Stopped by the lockout guard: the first PCs that answered all refused the password.", "ロックアウト防止のため停止しました。最初に応答したPCがすべてパスワードを拒否しました。"}}
	logBroken  = message{"SHAM0006-E", Text{"The command ended before all targets were tried.", "すべての実行先を処理する前にコマンドが終了しました。"}}

	dryStart   = message{"SHAM0007-I", Text{"Dry run started: nothing is changed.", "確認だけの実行を開始しました。何も変更しません。"}}
	dryAllOK   = message{"SHAM0008-I", Text{"Dry run finished: no target would fail.", "確認だけの実行が終了しました。失敗が見込まれる実行先はありません。"}}
	drySomeBad = message{"SHAM0009-W", Text{"Dry run finished: at least one target would fail.", "確認だけの実行が終了しました。少なくとも1台の実行先で失敗が見込まれます。"}}
	dryAllBad  = message{"SHAM0010-E", Text{"Dry run finished: every target would fail.", "確認だけの実行が終了しました。すべての実行先で失敗が見込まれます。"}}
)

type message struct {
	id   string
	text Text
}

// LogMessages lists the messages of DCMAMT.LOG that stand beside the reasons, by ID.
func LogMessages() map[string]Text {
	m := make(map[string]Text)
	for _, msg := range []message{logStart, logAllOK, logSomeBad, logAllBad, logStopped, logBroken,
		dryStart, dryAllOK, drySomeBad, dryAllBad} {
		m[msg.id] = msg.text
	}
	return m
}

// Log is DCMAMT.LOG. Several processes may write to one log at once: each line is written whole, under a lock file,
// and whoever writes the line that would be one too many moves the generations first. Safe for concurrent use.
//
// A line is: time with milliseconds and zone, process ID in brackets, message ID, fields as key=value (quoted where
// a value has spaces), message. No secret is ever in it.
type Log struct {
	path               string
	lang               Lang
	lines, generations int
	dryRun             bool // since Start

	mu    sync.Mutex
	seen  fs.FileInfo // the file as we last left it
	count int         // its lines then
}

// OpenLog makes the folder's DCMAMT.LOG ready. The first line shows whether it can be written.
func OpenLog(dir string, lang Lang) *Log {
	return &Log{path: filepath.Join(dir, LogName), lang: lang, lines: LogLines, generations: LogGenerations}
}

// Path is the log file's full name.
func (l *Log) Path() string { return l.path }

// ModeDryRun is the mode of a run that changes nothing. Its lines say so.
const ModeDryRun = "dry-run"

// Start writes that a run begins, on what, for how many targets, and what it does: all, resume, retry-failed or dry-run.
// Call it before targets are worked on.
func (l *Log) Start(source string, targets int, mode string) error {
	m := logStart
	if l.dryRun = mode == ModeDryRun; l.dryRun {
		m = dryStart
	}
	return l.write(m, field{"source", source}, field{"targets", strconv.Itoa(targets)}, field{"mode", mode})
}

// Failed writes the line of a target that was not initialized, with cause and remedy.
func (l *Log) Failed(o Outcome) error {
	r := ReasonOf(o.Code)
	status := "-"
	if o.Status != 0 {
		status = o.Status.String()
	}
	address := "-"
	if o.Reached.IsValid() {
		address = o.Reached.String()
	} else if o.Address.IsValid() {
		address = o.Address.String()
	}
	detail := "-"
	if o.Err != nil {
		detail = o.Err.Error()
	}
	fields := []field{{"host", o.Target.String()}, {"address", address}, {"step", string(o.Step)},
		{"reason", string(o.Code)}, {"status", status}, {"detail", detail}}
	if l.dryRun {
		fields = append(fields, field{"mode", ModeDryRun})
	}
	return l.write(message{r.ID, Text{EN: r.Cause.EN + " Remedy: " + r.Remedy.EN, JA: r.Cause.JA + " 対処: " + r.Remedy.JA}}, fields...)
}

// End writes the summary of a run that was meant for so many targets and ends with that exit code. Targets that have no
// outcome mean that the run was broken off if the exit code is 12, else that it was not about them. Warnings are only
// counted: with a line for each, a company full of old firmware would push the failures out of the log.
func (l *Log) End(s Summary, targets, exitCode int) error {
	allOK, someBad, allBad := logAllOK, logSomeBad, logAllBad
	initialized := field{"initialized", strconv.Itoa(s.OK)}
	if l.dryRun {
		allOK, someBad, allBad = dryAllOK, drySomeBad, dryAllBad
		initialized = field{"to_initialize", strconv.Itoa(s.OK - s.Already)}
	}
	m := allOK
	switch {
	case exitCode == 12 && (s.OK+s.Failed+s.NotTried < targets || s.Reasons[Interrupted] > 0):
		m = logBroken
	case s.NotTried > 0:
		m = logStopped
	case s.OK == 0:
		m = allBad
	case s.OK < targets:
		m = someBad
	}
	return l.write(m, field{"targets", strconv.Itoa(targets)}, initialized,
		field{"already", strconv.Itoa(s.Already)}, field{"failed", strconv.Itoa(s.Failed)},
		field{"not_tried", strconv.Itoa(targets - s.OK - s.Failed)},
		field{"exit_code", strconv.Itoa(exitCode)}, field{"warned", strconv.Itoa(s.Warned)})
}

type field struct{ key, value string }

func (l *Log) write(m message, fields ...field) error {
	var b strings.Builder
	b.WriteString(time.Now().Format("2006-01-02T15:04:05.000-07:00"))
	fmt.Fprintf(&b, " [%d] %s", os.Getpid(), m.id)
	for _, f := range fields {
		v := Printable(f.value, maxLogText)
		if v == "" || strings.ContainsAny(v, ` "=\`) {
			v = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
		}
		b.WriteString(" " + f.key + "=" + v)
	}
	b.WriteString(" " + m.text.In(l.lang) + "\n")

	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.append(b.String()); err != nil {
		return fmt.Errorf("write the log %s: %w", l.path, err)
	}
	return nil
}

// append adds one line under the lock. The files are opened for each line: Windows cannot rename a file that another
// process holds open, and at 90 microseconds a line ten thousand failures take a second of a run of many.
func (l *Log) append(line string) (err error) {
	guard, err := os.OpenFile(l.path+".lock", os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	defer guard.Close()
	if err := lock(guard); err != nil {
		return err
	}

	f, err := l.open()
	if err == nil && l.count >= l.lines {
		f.Close()
		if err := l.rotate(); err != nil {
			return err
		}
		f, err = l.open()
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	l.count++
	l.seen, err = f.Stat()
	return err
}

// open opens the log for appending and brings count up to date with what others wrote since.
func (l *Log) open() (*os.File, error) {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var from int64
		if l.seen != nil && os.SameFile(l.seen, info) && l.seen.Size() <= info.Size() {
			from = l.seen.Size()
		} else {
			l.count = 0
		}
		var more int
		more, err = countLines(io.NewSectionReader(f, from, info.Size()-from))
		l.count += more
		l.seen = info
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// rotate moves every generation up by one; the oldest goes.
func (l *Log) rotate() error {
	for n := l.generations - 1; n > 0; n-- {
		older := l.path + "." + strconv.Itoa(n)
		newer := l.path
		if n > 1 {
			newer += "." + strconv.Itoa(n-1)
		}
		if err := os.Rename(newer, older); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func countLines(r io.Reader) (int, error) {
	n := 0
	buf := make([]byte, 64<<10)
	for {
		got, err := r.Read(buf)
		n += bytes.Count(buf[:got], []byte{'\n'})
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
