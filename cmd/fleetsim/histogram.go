package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts times in buckets whose width is 1/64 of what they hold at most, as HDR histograms do: a percentile is
// no more than 1.6 % too high. Many goroutines may add at once.
type histogram struct {
	buckets [(64 - subBits) << subBits]atomic.Int64
	max     atomic.Int64
	n       atomic.Int64
}

const subBits = 6

// bucket of a time in microseconds.
func bucket(us uint64) int {
	if us < 1<<subBits {
		return int(us)
	}
	shift := bits.Len64(us) - 1 - subBits
	return shift<<subBits + int(us>>shift)
}

// upper is the highest time that falls into the bucket.
func upper(b int) uint64 {
	if b < 1<<subBits {
		return uint64(b)
	}
	shift := b>>subBits - 1
	return uint64(b-shift<<subBits+1)<<shift - 1
}

func (h *histogram) add(d time.Duration) {
	us := max(0, d.Microseconds())
	h.buckets[bucket(uint64(us))].Add(1)
	h.n.Add(1)
	for old := h.max.Load(); us > old && !h.max.CompareAndSwap(old, us); old = h.max.Load() {
	}
}

// quantile is the time that a share of 1-q of all exceed; 0 where nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	n := h.n.Load()
	rank := int64(q * float64(n))
	if float64(rank) < q*float64(n) {
		rank++
	}
	var sum int64
	for b := range h.buckets {
		if sum += h.buckets[b].Load(); sum >= rank && sum > 0 {
			return time.Duration(min(int64(upper(b)), h.max.Load())) * time.Microsecond
		}
	}
	return 0
}

// latency is a histogram for people and for --json, in milliseconds.
type latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

func (h *histogram) latency() latency {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return latency{ms(h.quantile(0.5)), ms(h.quantile(0.9)), ms(h.quantile(0.99)), ms(h.quantile(0.999)), ms(time.Duration(h.max.Load()) * time.Microsecond)}
}
