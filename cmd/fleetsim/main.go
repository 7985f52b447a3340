// Fleetsim is N simulated clients against a real manager or relay: what they say is what real clients say, signed and in
// chains of their own. It measures what the manager bears, and for chaos tests it keeps a ledger of what was acknowledged.
//
// # What is measured
//
// Check-ins come at a rate, whatever becomes of those before them, and latency counts from when a check-in was due to
// when its reply was there (and its signature verified), waiting and retries included. So a manager that stands still for a
// second shows a second, not one slow check-in.
//
// # Exit codes
//
//	0  every check-in was answered, retries included.
//	1  it ran, and something was refused, unanswered or answered wrongly; or the enrolment failed.
//	2  it could not start as asked.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"samehost/internal/checkin"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "development"

const (
	exitOK    = 0
	exitFault = 1
	exitUsage = 2
)

type flags struct {
	HigherSystem []string      `required:"" sep:"none"`
	TokenFile    string        `required:""`
	Clients      int           `required:""`
	Rate         *float64      ``
	Interval     time.Duration ``
	Duration     time.Duration `required:""`
	Ramp         time.Duration ``
	JSON         bool          `name:"json"`
	CAFile       string        `name:"ca-file"`
	Connections  int           `default:"64"`
	TLS          string        `name:"tls" default:"resumed" enum:"kept,resumed,new"`
	Full         bool          ``
	SignAhead    int           ``
	Verify       bool          `default:"true" negatable:""`
	Retry        time.Duration `default:"10s"`
	Drain        time.Duration `default:"30s"`
	Ledger       string        ``
	State        string        ``
	Restart      bool          ``
	Settle       int           ``
	Seed         *uint64       ``
	Version      kong.VersionFlag
}

// help is one screen: 24 lines of 80 columns.
const help = `Usage: fleetsim --higher-system URL --token-file FILE --clients N
                {--rate R | --interval TIME} --duration TIME [flags]
N simulated clients enrol, then R check-ins per second come from them.

  --higher-system URL   manager or relay; several: shared, and tried in turn
  --token-file FILE     enrolment token, the line that "token create" prints
  --clients N           some 300 bytes of memory each
  --rate R              check-ins per second; 0: as fast as they are taken
  --interval TIME       instead of --rate: each client once in that time
  --duration TIME       of the load; --ramp TIME before it, from 0 to R
  --tls kept|resumed|new  connection: kept open, or one per check-in (resumed)
  --connections N       at most at a time (64); --ca-file FILE: certificates are
                        judged by it; else by replies, which the manager signs
  --full                never send deltas; --no-verify: take replies as said
  --sign-ahead N        sign N reports before the load begins
  --retry TIME          wait before a second attempt (10s), doubled each time
  --drain TIME          wait at the end for what is under way (30s)
  --ledger FILE         write what was acknowledged: word, digest, host ID
  --state DIR           be the same clients again; --restart: after a restart
  --settle N            each client N times before the load; --seed N: of the
                        clients; --json: one object;  --version, -h, --help
Examples:
  fleetsim --higher-system https://mgr:8740 --token-file token --clients 1000 \
    --rate 200 --duration 30s       # or, as in a company: --interval 15m`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// parsed carries the exit code of --help and --version out of the parser.
type parsed int

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	defer func() {
		if r := recover(); r != nil {
			done, ok := r.(parsed)
			if !ok {
				panic(r)
			}
			code = int(done)
		}
	}()
	var f flags
	parser, err := kong.New(&f, kong.Name("fleetsim"), kong.Writers(stdout, stderr), kong.Vars{"version": "fleetsim " + version},
		kong.Help(func(_ kong.HelpOptions, ctx *kong.Context) error {
			_, err := fmt.Fprintln(ctx.Stdout, help)
			return err
		}),
		kong.Exit(func(code int) { panic(parsed(code)) }))
	if err != nil {
		panic(err) // the flags struct is wrong
	}
	if _, err = parser.Parse(args); err == nil {
		err = f.check()
	}
	var l *load
	if err == nil {
		l, err = f.load()
	}
	if err != nil {
		fmt.Fprintf(stderr, "fleetsim: %v; see fleetsim --help\n", err)
		return exitUsage
	}
	result, err := f.play(ctx, l, stderr)
	if err = errors.Join(err, l.ledger.close()); err == nil && f.State != "" {
		err = l.fleet.saveState(f.State)
	}
	if result != nil {
		if f.JSON {
			err = errors.Join(err, json.NewEncoder(stdout).Encode(result))
		} else {
			err = errors.Join(err, result.print(stdout))
		}
	}
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "fleetsim: %v\n", err)
		return exitFault
	case !result.right():
		return exitFault
	}
	return exitOK
}

func (f *flags) check() error {
	if (f.Rate == nil) == (f.Interval == 0) {
		return errors.New("want either --rate or --interval")
	}
	if f.Clients < 1 || f.Clients > 10_000_000 {
		return errors.New("--clients: 1 to 10,000,000")
	}
	if f.Interval < 0 || f.Ramp < 0 || f.Retry <= 0 || f.Drain < 0 || f.Duration <= 0 {
		return errors.New("a time cannot be negative, and --duration and --retry not 0")
	}
	if f.Interval > 0 {
		rate := float64(f.Clients) / f.Interval.Seconds()
		f.Rate = &rate
	}
	if *f.Rate < 0 || math.IsNaN(*f.Rate) || *f.Rate > 1e6 {
		return errors.New("--rate: 0 to 1,000,000")
	}
	if *f.Rate == 0 && f.Ramp > 0 {
		return errors.New("--ramp grows to a --rate: without one there is nothing to grow to")
	}
	if f.Connections < 1 || f.Connections > 60_000 {
		return errors.New("--connections: 1 to 60,000")
	}
	if f.SignAhead < 0 || f.SignAhead > 10_000_000 {
		return errors.New("--sign-ahead: 0 to 10,000,000")
	}
	if f.Settle < 0 || f.Settle > 1000 {
		return errors.New("--settle: 0 to 1000")
	}
	if f.Restart && f.State == "" {
		return errors.New("--restart is about the clients of --state")
	}
	return nil
}

func (f *flags) load() (*load, error) {
	b, err := os.ReadFile(f.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	token, err := checkin.ParseToken(string(b))
	if err != nil {
		return nil, fmt.Errorf("--token-file %s: %w", f.TokenFile, err)
	}
	l := &load{connections: f.Connections, use: f.TLS, verify: f.Verify, firstRetry: f.Retry, drain: f.Drain}
	for _, u := range f.HigherSystem {
		h, err := newHigher(u, f.CAFile)
		if err != nil {
			return nil, err
		}
		l.systems = append(l.systems, h)
	}
	seed := rand.Uint64()
	if f.Seed != nil {
		seed = *f.Seed
	}
	l.fleet = newFleet(seed, f.Clients, token)
	l.fleet.full = f.Full
	if f.State != "" {
		if err := l.fleet.loadState(f.State, f.Restart); err != nil {
			return nil, err
		}
	}
	if f.Ledger != "" {
		file, err := os.Create(f.Ledger)
		if err != nil {
			return nil, fmt.Errorf("--ledger: %w", err)
		}
		l.ledger = newLedger(file)
	}
	return l, nil
}

// play enrols and loads. The result is nil where not even the enrolment came to an end.
func (f *flags) play(ctx context.Context, l *load, stderr io.Writer) (*result, error) {
	l.start(ctx)
	defer l.end()
	enrolled, err := l.enrol(ctx)
	if err != nil {
		return nil, err
	}
	if n := enrolled.accepted.Load() + enrolled.deferred.Load(); n > 0 {
		took := enrolled.ended.Sub(enrolled.began)
		fmt.Fprintf(stderr, "%d clients enrolled in %.1f s\n", n, took.Seconds())
	}
	for range f.Settle {
		if _, err := l.settle(ctx); err != nil {
			return nil, err
		}
	}
	if err := l.signAhead(f.SignAhead, *f.Rate); err != nil {
		return nil, err
	}
	connections, sent, received := l.traffic.connections.Load(), l.traffic.sent.Load(), l.traffic.received.Load()
	ramped, loaded := l.run(ctx, *f.Rate, f.Ramp, f.Duration)
	r := &result{
		Clients: f.Clients, Rate: *f.Rate, TLS: f.TLS, Verified: f.Verify,
		Enrolment: enrolled.summary(), CheckIns: loaded.summary(),
		Connections: l.traffic.connections.Load() - connections, Resumed: l.traffic.handshakesResumed.Load(),
		BytesSent: l.traffic.sent.Load() - sent, BytesReceived: l.traffic.received.Load() - received,
	}
	if f.Ramp > 0 {
		s := ramped.summary()
		r.Ramp = &s
	}
	return r, nil
}

// result is what --json prints. Its field names never change their meaning.
type result struct {
	Clients   int      `json:"clients"`
	Rate      float64  `json:"rate"` // asked for; 0: as fast as possible
	TLS       string   `json:"tls"`
	Verified  bool     `json:"verified"` // every reply's signature
	Enrolment summary  `json:"enrolment"`
	Ramp      *summary `json:"ramp,omitempty"`
	CheckIns  summary  `json:"check_ins"`

	// During ramp and load: TLS connections made, of which by a session ticket (enrolment included), and bytes inside TLS.
	Connections   int64 `json:"connections"`
	Resumed       int64 `json:"resumed"`
	BytesSent     int64 `json:"bytes_sent"`
	BytesReceived int64 `json:"bytes_received"`
}

// summary of a phase.
type summary struct {
	Seconds    float64 `json:"seconds"` // in which check-ins became due
	Offered    int64   `json:"offered"`
	Accepted   int64   `json:"accepted"`
	Deferred   int64   `json:"deferred"`
	Refused    int64   `json:"refused"`
	Unanswered int64   `json:"unanswered"` // nobody knows whether they were accepted
	BadReplies int64   `json:"bad_replies"`
	Skipped    int64   `json:"skipped"` // due when every client waited for an answer
	Full       int64   `json:"full"`    // of those taken
	Delta      int64   `json:"delta"`
	Retries    int64   `json:"retries"`
	PerSecond  float64 `json:"per_second"` // taken, accepted or deferred

	Latency latency                     `json:"latency_ms"`
	Errors  map[string]int64            `json:"errors"` // attempts that failed, by kind
	Orders  map[checkin.OrderKind]int64 `json:"orders"`
	Example string                      `json:"example,omitempty"` // of a refusal
}

func (p *phase) summary() summary {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := summary{
		Seconds: p.ended.Sub(p.began).Seconds(), Offered: p.offered.Load(), Accepted: p.accepted.Load(), Deferred: p.deferred.Load(), Refused: p.refused.Load(),
		Unanswered: p.unanswered(), BadReplies: p.bad.Load(), Skipped: p.skipped.Load(), Full: p.full.Load(), Delta: p.delta.Load(), Retries: p.retried.Load(),
		Latency: p.times.latency(), Errors: p.kinds, Orders: p.orders, Example: p.example,
	}
	if s.Seconds > 0 {
		s.PerSecond = float64(s.Accepted+s.Deferred) / s.Seconds
	}
	return s
}

// troubles lists the attempts that failed.
func (p *phase) troubles() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return counts(p.kinds)
}

func counts[K ~string](m map[K]int64) string {
	var all []string
	for k, n := range m {
		all = append(all, fmt.Sprintf("%s %d", string(k), n))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// right reports whether every check-in was answered, and rightly.
func (r *result) right() bool {
	all := []summary{r.Enrolment, r.CheckIns}
	if r.Ramp != nil {
		all = append(all, *r.Ramp)
	}
	for _, s := range all {
		if s.Refused+s.Unanswered+s.BadReplies > 0 {
			return false
		}
	}
	return true
}

func (r *result) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	asked := "as fast as possible"
	if r.Rate > 0 {
		asked = fmt.Sprintf("%.4g/s asked for", r.Rate)
	}
	for _, p := range []struct {
		name  string
		s     *summary
		asked string
	}{{"enrolment", &r.Enrolment, ""}, {"ramp", r.Ramp, ""}, {"check-ins", &r.CheckIns, asked}} {
		s := p.s
		if s == nil || s.Offered == 0 {
			continue
		}
		fmt.Fprintf(t, "%s\t%d in %.1f s, %.1f/s", p.name, s.Accepted+s.Deferred, s.Seconds, s.PerSecond)
		if p.asked != "" {
			fmt.Fprintf(t, " (%s)", p.asked)
		}
		fmt.Fprintf(t, "\n  ms\tp50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n", s.Latency.P50, s.Latency.P90, s.Latency.P99, s.Latency.P999, s.Latency.Max)
		fmt.Fprintf(t, "  reports\t%d full, %d deltas\n", s.Full, s.Delta)
		for _, row := range []struct {
			name string
			n    int64
			more string
		}{{"deferred", s.Deferred, ""}, {"retries", s.Retries, counts(s.Errors)}, {"refused", s.Refused, s.Example},
			{"unanswered", s.Unanswered, ""}, {"bad replies", s.BadReplies, ""}, {"skipped", s.Skipped, "every client waited for an answer"}} {
			if row.n > 0 {
				fmt.Fprintf(t, "  %s\t%d", row.name, row.n)
				if row.more != "" {
					fmt.Fprintf(t, " (%s)", row.more)
				}
				fmt.Fprintln(t)
			}
		}
		if len(s.Orders) > 0 {
			fmt.Fprintf(t, "  orders\t%s\n", counts(s.Orders))
		}
	}
	fmt.Fprintf(t, "connections\t%d (--tls %s)\n", r.Connections, r.TLS)
	if n := r.CheckIns.Accepted + r.CheckIns.Deferred; n > 0 && r.Ramp == nil {
		fmt.Fprintf(t, "bytes\t%d up, %d down per check-in, inside TLS\n", r.BytesSent/n, r.BytesReceived/n)
	}
	return t.Flush()
}
