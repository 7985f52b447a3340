package terminal

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/layout"
)

func TestBar(t *testing.T) {
	t.Parallel()
	half := Standing{Total: 10000, Done: 5000, Failed: 123, Rate: 166.4}
	begun := Standing{Total: 10000}
	over := Standing{Total: 300, Done: 300, Failed: 16, Rate: 9.96}
	for _, test := range []struct {
		Standing
		lang  amtinit.Lang
		width int
		want  string
	}{
		{half, "en", 79, "[##################...................]  5000/10000  failed 123  ETA 31s  166/s"},
		{half, "ja", 79, "[#################..................]  5000/10000  失敗123  残り31秒  毎秒166台"},
		{half, "en", 200, "[" + strings.Repeat("#", 25) + strings.Repeat(".", 25) + "]  5000/10000  failed 123  ETA 31s  166/s"},
		{begun, "en", 79, "[............................................]  0/10000  failed 0  ETA -  0.0/s"},
		{over, "en", 79, "[#########################################]  300/300  failed 16  ETA 0s  10.0/s"},
		// less and less room
		{half, "en", 39, "5000/10000  failed 123  ETA 31s  166/s"},
		{half, "ja", 39, "5000/10000  失敗123  残り31秒"},
		{half, "en", 37, "5000/10000  failed 123  ETA 31s"},
		{half, "en", 30, "5000/10000  failed 123"},
		{half, "en", 21, "5000/10000"},
		{half, "en", 9, "5000"},
		{half, "en", 3, ""},
	} {
		if got := test.Standing.Bar(test.lang, test.width); got != test.want {
			t.Errorf("%+v in %d columns, %s:\n got %s\nwant %s", test.Standing, test.width, test.lang, got, test.want)
		}
		if test.width == 79 && layout.Columns(test.want) != 79 {
			t.Errorf("%q has %d columns, the bar fills all 79", test.want, layout.Columns(test.want))
		}
	}
	for _, s := range []Standing{half, begun, over, {}, {Total: 1}, {Total: 123456789, Done: 12345678, Failed: 12345678, Rate: 0.02}} {
		for _, lang := range []amtinit.Lang{amtinit.English, amtinit.Japanese} {
			for width := range 250 {
				if line := s.Bar(lang, width); layout.Columns(line) > width {
					t.Errorf("%q has %d columns of %d", line, layout.Columns(line), width)
				}
			}
		}
	}
}

func TestProgressLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		Standing
		lang amtinit.Lang
		want string
	}{
		{Standing{10000, 1, 0, 0}, "en", "1 of 10000 targets done, 0 failed, 0.0 per second, time left: not known yet"},
		{Standing{10000, 9000, 12, 8.04}, "en", "9000 of 10000 targets done, 12 failed, 8.0 per second, time left: 2m05s"},
		{Standing{10000, 1, 0, 0}, "ja", "10000台中1台終了、失敗0台、毎秒0.0台、残り時間: 不明"},
		{Standing{10000, 9000, 12, 0.1}, "ja", "10000台中9000台終了、失敗12台、毎秒0.1台、残り時間: 2時間46分"},
	} {
		if got := test.Standing.Line(test.lang); got != test.want {
			t.Errorf("%+v, %s: %s, want %s", test.Standing, test.lang, got, test.want)
		}
	}
}

// The rate follows what happens now, and a moment's stop does not make it jump.
func TestRate(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	m := NewMeter(at, 500) // of a run that goes on with 500
	done := 500
	pass := func(seconds, perSecond int) (rate float64) {
		for range seconds {
			at = at.Add(time.Second)
			done += perSecond
			rate = m.Rate(at, done)
		}
		return rate
	}
	near := func(got, want float64) {
		t.Helper()
		if got < want*0.99-0.01 || got > want*1.01+0.01 {
			t.Errorf("%.2f per second, want %.2f", got, want)
		}
	}
	near(m.Rate(at.Add(time.Millisecond), 600), 0) // too early to say
	near(pass(1, 100), 100)
	near(pass(30, 100), 100)
	near(pass(1, 0), 90.5) // e^-0.1 of 100 is left
	near(pass(60, 200), 200)
	near(pass(120, 0), 0)
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		d      time.Duration
		en, ja string
	}{
		{0, "0s", "0秒"},
		{100 * time.Millisecond, "1s", "1秒"},
		{59 * time.Second, "59s", "59秒"},
		{60 * time.Second, "1m00s", "1分00秒"},
		{3599*time.Second + time.Millisecond, "1h00m", "1時間00分"},
		{26*time.Hour + 5*time.Minute, "26h05m", "26時間05分"},
	} {
		if en, ja := Duration(test.d, amtinit.English), Duration(test.d, amtinit.Japanese); en != test.en || ja != test.ja {
			t.Errorf("%v: %s, %s; want %s, %s", test.d, en, ja, test.en, test.ja)
		}
	}
}

func TestCanMoveCursor(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		goos, term string
		want       bool
	}{
		{"linux", "xterm-256color", true}, {"linux", "dumb", false}, {"linux", "", false},
		{"windows", "", true}, {"windows", "dumb", false},
	} {
		if got := canMoveCursor(test.goos, test.term); got != test.want {
			t.Errorf("canMoveCursor(%s, %q) = %v", test.goos, test.term, got)
		}
	}
}

// Without a terminal there is a line every ten seconds until the run is over, and none with "none".
func TestPlainProgress(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		"auto": "dcmamtin: 300 of 1000 targets done, 3 failed, 20.0 per second, time left: 35s\n" +
			"dcmamtin: 700 of 1000 targets done, 3 failed, 34.6 per second, time left: 9s\n",
		"plain": "dcmamtin: 300 of 1000 targets done, 3 failed, 20.0 per second, time left: 35s\n" +
			"dcmamtin: 700 of 1000 targets done, 3 failed, 34.6 per second, time left: 9s\n",
		"none": "",
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			var finished, failed atomic.Int64
			s := NewScreen(&out, &out)
			finished.Store(100) // by an earlier run
			stop := s.Show(option, amtinit.English, func() Standing {
				return Standing{Total: 1000, Done: int(finished.Load()), Failed: int(failed.Load())}
			}, func(text string) { fmt.Fprintln(s.Errors(), "dcmamtin: "+text) })
			time.Sleep(time.Second)
			finished.Store(300)
			failed.Store(3)
			time.Sleep(10 * time.Second)
			finished.Store(700)
			time.Sleep(14 * time.Second)
			stop()
			time.Sleep(time.Minute)
			if got := out.String(); got != want {
				t.Errorf("%s:\n got %q\nwant %q", option, got, want)
			}
		})
	}
}

// stalled is a pipe that nobody reads.
type stalled struct{ writing, release chan struct{} }

func (s stalled) Write(b []byte) (int, error) {
	close(s.writing)
	<-s.release
	return len(b), nil
}

// Whoever pipes the results into something that does not read them can still interrupt the run: its messages pass.
func TestMessagesPassAStalledOutput(t *testing.T) {
	t.Parallel()
	out := stalled{make(chan struct{}), make(chan struct{})}
	defer close(out.release)
	said := make(chan struct{})
	s := NewScreen(out, writerFunc(func(b []byte) (int, error) {
		close(said)
		return len(b), nil
	}))
	go io.WriteString(s.Results(), "a line\n")
	<-out.writing
	go io.WriteString(s.Errors(), "a message\n")
	select {
	case <-said:
	case <-time.After(20 * time.Second):
		t.Fatal("a message waits for somebody to read standard output")
	}
}
