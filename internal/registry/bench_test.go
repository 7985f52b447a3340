package registry

import (
	"sync"
	"testing"
	"time"

	"samehost/internal/checkin"
)

// BenchmarkCheckIn is one durable check-in of a PC that is known, signed beforehand.
func BenchmarkCheckIn(b *testing.B) {
	m := newManager(b)
	const pcs = 100
	reports := make([]checkin.SignedReport, 0, b.N)
	fleet := make([]*pc, pcs)
	for i := range fleet {
		fleet[i] = newPC(m, string(rune('a'+i)))
		fleet[i].checkIn()
	}
	m.pass(time.Minute)
	for i := range b.N {
		reports = append(reports, fleet[i%pcs].next())
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, s := range reports {
		if _, err := m.CheckIn(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheckIns are durable check-ins of 10,000 PCs that are at rest, as many at once as the manager takes.
func BenchmarkCheckIns(b *testing.B) {
	m := newManager(b)
	const pcs, atOnce = 10_000, 128
	fleet := make([]*pc, pcs)
	each := func(f func(p *pc)) {
		var wg sync.WaitGroup
		next := make(chan *pc)
		for range atOnce {
			wg.Go(func() {
				for p := range next {
					f(p)
				}
			})
		}
		for _, p := range fleet {
			next <- p
		}
		close(next)
		wg.Wait()
	}
	for i := range fleet {
		fleet[i] = newPC(m, "x")
		fleet[i].report.Facts = modelFacts("good", i)
	}
	began := time.Now()
	for range 3 {
		each(func(p *pc) { p.checkIn() })
		m.pass(time.Minute)
	}
	b.Logf("%d PCs enrolled, each heard three times, in %v", pcs, time.Since(began).Round(time.Millisecond))
	if rest := len(m.atRest()); rest != pcs {
		b.Fatalf("%d of %d at rest", rest, pcs)
	}
	reports := make(chan checkin.SignedReport, b.N)
	for i := range b.N {
		reports <- fleet[i%pcs].next()
	}
	close(reports)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for s := range reports {
				if _, err := m.CheckIn(b.Context(), s); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "check-ins/s")
}
