package registry

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"samehost/internal/checkin"
)

// BenchmarkFleet is what `make bench` shows of the registry alone: signed check-ins of 10,000 known PCs that say that nothing
// has changed, verified, durable and answered with a signed reply, as many at a time as connections would bring. Run it with
// -benchtime=1x: it measures over a time of its own.
func BenchmarkFleet(b *testing.B) {
	const (
		pcs    = 10000
		each   = 4 // reports of each PC that are measured, at most
		atOnce = 64
		during = 8 * time.Second
	)
	m := newManager(b)
	fleet := make([]*pc, pcs)
	forAll := func(f func(i int)) {
		var next atomic.Int64
		var all sync.WaitGroup
		for range atOnce {
			all.Go(func() {
				for i := int(next.Add(1) - 1); i < pcs; i = int(next.Add(1) - 1) {
					f(i)
				}
			})
		}
		all.Wait()
	}
	send := func(s checkin.SignedReport) {
		if _, err := m.CheckIn(b.Context(), s); err != nil {
			b.Error(err)
		}
	}
	forAll(func(i int) {
		p := newPC(m, "pc "+strconv.Itoa(i))
		p.report.Facts.SystemUUID = fmt.Sprintf("4c4c4544-0031-4a10-8042-%012x", i)
		p.report.Facts.NICs[0].MAC = fmt.Sprintf("00-1B-21-%02X-%02X-%02X", i>>16, i>>8&0xff, i&0xff)
		fleet[i] = p
		send(p.next())
		p.enrol = nil
	})
	m.pass(time.Minute)
	forAll(func(i int) { send(fleet[i].next()) }) // the run is certain: the PC comes to rest
	m.pass(time.Minute)
	var reports [each][pcs]checkin.SignedReport
	forAll(func(i int) {
		for k := range each {
			reports[k][i] = fleet[i].delta(b)
		}
	})
	runtime.GC()
	b.ResetTimer()
	began := time.Now()
	var done atomic.Int64
	for k := range each {
		m.pass(time.Minute)
		forAll(func(i int) {
			if time.Since(began) < during {
				send(reports[k][i])
				done.Add(1)
			}
		})
	}
	b.ReportMetric(float64(done.Load())/time.Since(began).Seconds(), "checkins/s")
}

// delta makes the next report say that all is as the last full one said.
func (p *pc) delta(t testing.TB) checkin.SignedReport {
	base := p.report.Base
	if base == (checkin.Digest{}) {
		base = p.report.Previous
	}
	p.report.Counter++
	p.report.AgeMS = uint64(p.m.clock().Sub(p.runBegan).Milliseconds())
	r, ok := p.report.Delta(base)
	if !ok {
		t.Fatal("no delta")
	}
	s, err := checkin.Sign(r, p.seed.SigningKey(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p.report.Previous, p.report.Base = s.Digest(), base
	return s
}
