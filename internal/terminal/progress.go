// Package terminal shows on a terminal what becomes of many PCs: a bar or lines while they are worked on, tables of
// reasons afterwards.
package terminal

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"samehost/internal/amtinit"
	"samehost/internal/layout"
)

const (
	progressEvery = 10 * time.Second       // a plain line
	redrawEvery   = 200 * time.Millisecond // the bar
	rateTime      = 10 * time.Second       // what is older than this counts less than a third in the rate

	leastWidth = 20 // a terminal with fewer columns gets plain lines instead of the bar
	leastBar   = 10 // columns of the bar itself; without them it is left out
	widestBar  = 50
)

// Screen is where a run writes: standard output, standard error and, while targets are worked on, the bar below both. Lines
// are written whole, one Write each, from any goroutine; while there is a bar they scroll above it and it stays last.
type Screen struct {
	stdout, stderr io.Writer
	shared         bool // both are the same terminal

	mu  sync.Mutex
	bar *mpb.Progress // nil while there is none
}

// NewScreen makes the screen of a command.
func NewScreen(stdout, stderr io.Writer) *Screen {
	return &Screen{stdout: stdout, stderr: stderr, shared: sameTerminal(stdout, stderr)}
}

// Results is standard output, for one goroutine. Where it is not the terminal of standard error, it holds nobody up who writes
// there: a pipe that is not read would keep Ctrl-C from being answered.
func (s *Screen) Results() io.Writer {
	if !s.shared {
		return s.stdout
	}
	return writerFunc(func(line []byte) (int, error) { return s.write(s.stdout, line) })
}

// Errors is standard error.
func (s *Screen) Errors() io.Writer {
	return writerFunc(func(line []byte) (int, error) { return s.write(s.stderr, line) })
}

func (s *Screen) write(w io.Writer, line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != nil {
		if _, err := s.bar.Write(append([]byte{'\r'}, line...)); !errors.Is(err, mpb.ErrDone) {
			return len(line), err
		}
		// The bar ended by itself: its terminal is gone, and the line will say so.
	}
	return w.Write(line)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// terminal is the file behind w if that is a terminal, else nil.
func terminal(w io.Writer) *os.File {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// sameTerminal reports that two writers end at one terminal. Windows gives a process one console at most.
func sameTerminal(a, b io.Writer) bool {
	ta, tb := terminal(a), terminal(b)
	if ta == nil || tb == nil {
		return false
	}
	if runtime.GOOS == "windows" {
		return true
	}
	ia, errA := ta.Stat()
	ib, errB := tb.Stat()
	return errA == nil && errB == nil && os.SameFile(ia, ib)
}

// Columns is how many columns standard output has, 0 if it is no terminal, or one that does not tell.
func (s *Screen) Columns() int { return Width(s.stdout) }

// Width is how many columns w has, 0 if that is not known: it is no terminal, or one that does not tell.
func Width(w io.Writer) int {
	f := terminal(w)
	if f == nil {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// canMoveCursor reports that the terminal f understands what a bar needs. No colour is ever used, so NO_COLOR has nothing
// to switch off.
func canMoveCursor(goos, term string) bool {
	return term != "dumb" && (term != "" || goos == "windows")
}

// Show shows on standard error how far a run is until the returned function is called: with "auto" a bar if that is a
// terminal which can show one, else a line every few seconds, which say gets; with "plain" always such lines, with "none" nothing.
// now may be called from another goroutine; its Rate is filled in.
func (s *Screen) Show(how string, l amtinit.Lang, now func() Standing, say func(string)) (stop func()) {
	m := NewMeter(time.Now(), now().Done)
	switch f := terminal(s.stderr); {
	case how == "none":
		return func() {}
	case how == "auto" && f != nil && canMoveCursor(runtime.GOOS, os.Getenv("TERM")) && Width(f) >= leastWidth:
		return s.showBar(f, func(width int) string {
			is := now()
			is.Rate = m.Rate(time.Now(), is.Done)
			return is.Bar(l, width)
		})
	}
	over, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case t := <-tick.C:
				is := now()
				is.Rate = m.Rate(t, is.Done)
				say(is.Line(l))
			case <-over:
				return
			}
		}
	}()
	return func() {
		close(over)
		<-gone
	}
}

// showBar keeps the line that draw makes for the terminal's columns below everything else, and takes it away in the end.
//
// A terminal echoes Ctrl-C as ^C where the cursor is. The cursor's way back up to the bar then begins in column 2, so
// whatever is written there first begins with a carriage return.
func (s *Screen) showBar(f *os.File, draw func(columns int) string) (stop func()) {
	p := mpb.New(mpb.WithOutput(f), mpb.WithRefreshRate(redrawEvery))
	bar := p.MustAdd(0, mpb.BarFillerFunc(func(w io.Writer, st decor.Statistics) error {
		// The last column stays free: some terminals begin a new line when it is written.
		_, err := io.WriteString(w, "\r"+draw(st.AvailableWidth-1))
		return err
	}), mpb.BarFillerTrim())
	s.mu.Lock()
	s.bar = p
	s.mu.Unlock()
	return func() {
		s.mu.Lock() // no line is written between the bar's last drawing and its going
		defer s.mu.Unlock()
		bar.Abort(true)
		p.Wait()
		s.bar = nil
		if runtime.GOOS == "windows" { // mpb cleared the whole line there, without escape sequences
			io.WriteString(f, "\r")
		} else {
			io.WriteString(f, "\r\x1b[J")
		}
	}
}

// Meter measures targets per second, smoothed: each past moment counts less by a factor of e per rateTime.
type Meter struct {
	at          time.Time
	done        int
	sum, weight float64
}

// NewMeter makes a meter of a run that so many are done of.
func NewMeter(now time.Time, done int) *Meter { return &Meter{at: now, done: done} }

// Rate is the rate now that so many are done. It is for one goroutine.
func (m *Meter) Rate(now time.Time, done int) float64 {
	if passed := now.Sub(m.at); passed >= time.Second {
		keep := math.Exp(-passed.Seconds() / rateTime.Seconds())
		m.sum = m.sum*keep + float64(done-m.done)/passed.Seconds()*(1-keep)
		m.weight = m.weight*keep + (1 - keep)
		m.at, m.done = now, done
	}
	if m.weight == 0 {
		return 0
	}
	return m.sum / m.weight
}

// Standing is how far a run is.
type Standing struct {
	Total, Done, Failed int
	Rate                float64 // targets per second, 0 while it is not known
}

// eta is the time that is left at this rate, "" while that is not known.
func (s Standing) eta(l amtinit.Lang) string {
	left := s.Total - s.Done
	if left > 0 && s.Rate < 0.01 {
		return ""
	}
	if left <= 0 {
		return Duration(0, l)
	}
	return Duration(time.Duration(float64(left)/s.Rate*float64(time.Second)), l)
}

// Duration is a time in at most two units, as a person says it.
func Duration(d time.Duration, l amtinit.Lang) string {
	s := int(math.Ceil(d.Seconds()))
	switch {
	case s < 60:
		return fmt.Sprintf(textSeconds.In(l), s)
	case s < 3600:
		return fmt.Sprintf(textMinutes.In(l), s/60, s%60)
	default:
		return fmt.Sprintf(textHours.In(l), s/3600, s%3600/60)
	}
}

// RateText is a rate with one decimal where that says something.
func RateText(rate float64) string {
	if rate < 100 {
		return fmt.Sprintf("%.1f", rate)
	}
	return fmt.Sprintf("%.0f", rate)
}

// Line is the standing as a sentence.
func (s Standing) Line(l amtinit.Lang) string {
	eta := s.eta(l)
	if eta == "" {
		eta = textUnknownTime.In(l)
	}
	return fmt.Sprintf(textProgress.In(l), s.Done, s.Total, s.Failed, RateText(s.Rate), eta)
}

// Bar is the standing as one line of at most that many columns. What does not fit is left out, the least important first:
// the bar itself, the rate, the time left, the failures, and at last the total.
func (s Standing) Bar(l amtinit.Lang, width int) string {
	eta := s.eta(l)
	if eta == "" {
		eta = "-"
	}
	parts := []string{
		fmt.Sprintf("%d/%d", s.Done, s.Total),
		fmt.Sprintf(textBarFailed.In(l), s.Failed),
		fmt.Sprintf(textBarLeft.In(l), eta),
		fmt.Sprintf(textBarRate.In(l), RateText(s.Rate)),
	}
	line := ""
	for n := len(parts); n > 0; n-- {
		if line = strings.Join(parts[:n], "  "); layout.Columns(line) <= width {
			break
		}
	}
	if layout.Columns(line) > width {
		if line = fmt.Sprint(s.Done); layout.Columns(line) > width {
			return ""
		}
		return line
	}
	if room := min(width-layout.Columns(line)-len("[]  "), widestBar); room >= leastBar {
		filled := room
		if s.Total > 0 && s.Done < s.Total {
			filled = room * s.Done / s.Total
		}
		line = "[" + strings.Repeat("#", filled) + strings.Repeat(".", room-filled) + "]  " + line
	}
	return line
}
