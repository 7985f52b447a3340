package registry

import (
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
