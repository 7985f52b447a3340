package checkin

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// What Quiet lets through.
const (
	quietFor   = 10 * time.Minute
	quietTexts = 20 // different errors told at once within that time; of further ones the number only
)

// Quiet logs errors that thousands of PCs, or one that went mad, may cause thousands of times: each text at once when it is
// new, and for as long as it comes again every ten minutes once more, with how often. Of more than 20 texts within
// ten minutes it tells only how many errors there were. So a log grows by 42 lines in ten minutes at most, and loses none
// of a fault's first words.
type Quiet struct {
	log *slog.Logger

	mu    sync.Mutex
	texts map[quietText]*quietCount
	other int // errors beyond quietTexts
	timer *time.Timer
}

type quietText struct{ message, reason string }

type quietCount struct {
	level slog.Level
	more  int // not logged since the last line
}

// NewQuiet makes a Quiet that writes to log.
func NewQuiet(log *slog.Logger) *Quiet {
	return &Quiet{log: log, texts: make(map[quietText]*quietCount)}
}

// Error logs, or counts, an error.
func (q *Quiet) Error(message string, err error) { q.note(slog.LevelError, message, err.Error()) }

// Warn logs, or counts, a fault that is most likely not this machine's.
func (q *Quiet) Warn(message, reason string) { q.note(slog.LevelWarn, message, reason) }

func (q *Quiet) note(level slog.Level, message, reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	text := quietText{message, reason}
	c := q.texts[text]
	switch {
	case c != nil:
		c.more++
		return
	case len(q.texts) >= quietTexts:
		q.other++
		return
	}
	q.texts[text] = &quietCount{level: level}
	q.line(level, text)
	if q.timer == nil {
		q.timer = time.AfterFunc(quietFor, q.sum)
	}
}

// sum tells what was counted. A text that did not come again is new when it comes next.
func (q *Quiet) sum() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for text, c := range q.texts {
		if c.more == 0 {
			delete(q.texts, text)
			continue
		}
		q.line(c.level, text, "times", c.more, "within", quietFor)
		c.more = 0
	}
	if q.other > 0 {
		q.log.Error("further errors, each not logged", "times", q.other, "within", quietFor)
		q.other = 0
	}
	q.timer = nil
	if len(q.texts) > 0 {
		q.timer = time.AfterFunc(quietFor, q.sum)
	}
}

func (q *Quiet) line(level slog.Level, text quietText, more ...any) {
	q.log.Log(context.Background(), level, text.message, append([]any{"error", text.reason}, more...)...)
}
