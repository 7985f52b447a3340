package main

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A quantile is the right one of the sorted times, or at most 1/64 more.
func TestQuantiles(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(rapid.Int64Range(0, int64(10*time.Hour)), 1, 300).Draw(t, "times")
		h := new(histogram)
		for _, d := range times {
			h.add(time.Duration(d))
		}
		slices.Sort(times)
		for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
			rank := int(q * float64(len(times)))
			if float64(rank) < q*float64(len(times)) {
				rank++
			}
			want := time.Duration(times[rank-1]).Truncate(time.Microsecond)
			if got := h.quantile(q); got < want || got > want+want/64 || got > time.Duration(times[len(times)-1]) {
				t.Fatalf("quantile %v of %v is %v, want %v", q, times, got, want)
			}
		}
	})
}

func TestNothingCounted(t *testing.T) {
	t.Parallel()
	if got := new(histogram).latency(); got != (latency{}) {
		t.Errorf("%+v", got)
	}
}
