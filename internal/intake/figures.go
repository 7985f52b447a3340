package intake

import (
	"context"
	"fmt"
	"io"
	"runtime/metrics"
	"strconv"
	"sync/atomic"
	"time"

	"samehost/internal/checkin"
)

// Figures are written in Prometheus's text format 0.0.4. They are counts, sizes and times: no names, addresses, host IDs or
// secrets, so that whoever reaches the port may read them. docs/protocol/metrics.md lists them.

// MediaFigures is their media type.
const MediaFigures = "text/plain; version=0.0.4; charset=utf-8"

// Outcomes of a check-in besides a reply's status and a refusal's code.
const (
	outcomeBusy   = "busy"
	outcomeFailed = "failed"
	outcomeGone   = "gone"  // the client did not wait for the answer
	outcomeOther  = "other" // a refusal by a code that is not listed here
)

var outcomes = []string{
	string(checkin.Accepted), string(checkin.Deferred),
	string(checkin.Malformed), string(checkin.WrongAudience), string(checkin.NeedsEnrolment), string(checkin.BadToken),
	outcomeOther, outcomeBusy, outcomeFailed, outcomeGone,
}

// bounds are the upper bounds of the histogram's classes, in seconds.
var bounds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

type gateFigures struct {
	outcome map[string]*atomic.Uint64 // never changed, only counted up
	class   []atomic.Uint64           // one more than bounds
	nanos   atomic.Uint64
}

func newGateFigures() *gateFigures {
	f := &gateFigures{outcome: make(map[string]*atomic.Uint64), class: make([]atomic.Uint64, len(bounds)+1)}
	for _, o := range outcomes {
		f.outcome[o] = new(atomic.Uint64)
	}
	return f
}

func (f *gateFigures) count(ctx context.Context, reply checkin.Reply, err error) {
	n := f.outcome[outcome(ctx, reply, err)]
	if n == nil {
		n = f.outcome[outcomeOther]
	}
	n.Add(1)
}

func (f *gateFigures) took(d time.Duration) {
	i := 0
	for i < len(bounds) && d.Seconds() > bounds[i] {
		i++
	}
	f.class[i].Add(1)
	f.nanos.Add(uint64(d))
}

// Family writes one figure's head: its name, what it is, and its type (counter, gauge, histogram).
func Family(w io.Writer, name, typ, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, typ)
}

// Figure writes a figure without labels, with its head.
func Figure(w io.Writer, name, typ, help string, value float64) {
	Family(w, name, typ, help)
	fmt.Fprintf(w, "%s %s\n", name, number(value))
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// WriteFigures writes the Gate's.
func (g *Gate) WriteFigures(w io.Writer) {
	f := g.figures
	Family(w, "samehost_checkins_total", "counter", "Check-ins by what became of them.")
	for _, o := range outcomes {
		fmt.Fprintf(w, "samehost_checkins_total{outcome=%q} %d\n", o, f.outcome[o].Load())
	}
	const took = "samehost_checkin_seconds"
	Family(w, took, "histogram", "How long check-ins took that were let through, verification and database included.")
	sum := uint64(0)
	for i, b := range bounds {
		sum += f.class[i].Load()
		fmt.Fprintf(w, "%s_bucket{le=%q} %d\n", took, number(b), sum)
	}
	sum += f.class[len(bounds)].Load()
	fmt.Fprintf(w, "%s_bucket{le=\"+Inf\"} %d\n%s_sum %s\n%s_count %d\n", took, sum, took, number(time.Duration(f.nanos.Load()).Seconds()), took, sum)
	g.mu.Lock()
	underWay, away := g.underWay, max(0, time.Until(g.place))
	g.mu.Unlock()
	Figure(w, "samehost_checkins_under_way", "gauge", "Check-ins that wait for their answer.", float64(underWay))
	Figure(w, "samehost_checkins_sent_away_seconds", "gauge", "How far ahead clients that were sent away are told to come back; 0: nobody is.", away.Seconds())
}

// WriteFigures writes the Server's, and this process's.
func (s *Server) WriteFigures(w io.Writer) {
	s.mu.Lock()
	open, greeting, parked := s.open, s.greeting.Len(), s.parked.Len()
	s.mu.Unlock()
	Family(w, "samehost_connections", "gauge", "Open connections by what they do.")
	fmt.Fprintf(w, "samehost_connections{state=\"handshake\"} %d\nsamehost_connections{state=\"in use\"} %d\nsamehost_connections{state=\"waiting\"} %d\n",
		greeting, open-greeting-parked, parked)
	Figure(w, "samehost_connections_limit", "gauge", "How many connections are open at most.", float64(s.most))
	Figure(w, "samehost_connections_total", "counter", "Connections that were opened.", float64(s.count.opened.Load()))
	Family(w, "samehost_tls_handshakes_total", "counter", "TLS handshakes by kind.")
	fmt.Fprintf(w, "samehost_tls_handshakes_total{kind=\"full\"} %d\nsamehost_tls_handshakes_total{kind=\"resumed\"} %d\nsamehost_tls_handshakes_total{kind=\"failed\"} %d\n",
		s.count.full.Load(), s.count.resumed.Load(), s.count.failed.Load())
	Figure(w, "samehost_tls_handshakes_waiting", "gauge", "Handshakes that wait for a processor.", float64(s.queued.Load()))
	Family(w, "samehost_shed_total", "counter", "What was turned away, or cut off while it waited, to keep within bounds; check-ins are in samehost_checkins_total as busy.")
	fmt.Fprintf(w, "samehost_shed_total{what=\"connection\"} %d\nsamehost_shed_total{what=\"waiting connection\"} %d\nsamehost_shed_total{what=\"handshake\"} %d\n",
		s.count.shedConnections.Load(), s.count.shedParked.Load(), s.count.shedHandshakes.Load())
	process := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	metrics.Read(process)
	Figure(w, "samehost_memory_bytes", "gauge", "Memory of this process as the Go runtime counts it, without what it gave back.", float64(process[0].Value.Uint64()-process[1].Value.Uint64()))
	Figure(w, "samehost_heap_bytes", "gauge", "Memory of this process that is in use or not collected yet.", float64(process[2].Value.Uint64()))
	Figure(w, "samehost_goroutines", "gauge", "Goroutines of this process.", float64(process[3].Value.Uint64()))
}
