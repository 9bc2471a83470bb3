package load

import (
	"math/bits"
	"time"
)

// Hist counts durations in buckets that are less than one percent wide. The zero
// value is empty. Not for concurrent use.
type Hist struct {
	counts [buckets]int64
	total  int64
}

const (
	fine    = 7 // bits of a duration that tell buckets apart
	half    = 1 << fine
	buckets = (64 - fine) * half
)

// Add counts one duration; a negative one counts as none.
func (h *Hist) Add(d time.Duration) {
	h.counts[bucket(uint64(max(0, d)))]++
	h.total++
}

// Merge adds what another has counted.
func (h *Hist) Merge(o *Hist) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
}

// Count is how many durations were added.
func (h *Hist) Count() int64 { return h.total }

// Quantile returns the duration that a share q of all does not exceed; 0 when
// there are none.
func (h *Hist) Quantile(q float64) time.Duration {
	rank := int64(q * float64(h.total))
	if float64(rank) < q*float64(h.total) || rank == 0 {
		rank++
	}
	var seen int64
	for i, n := range h.counts {
		if seen += n; seen >= rank && n > 0 {
			return upper(i)
		}
	}
	return 0
}

// bucket keeps the highest bits of ns and their place.
func bucket(ns uint64) int {
	shift := max(0, bits.Len64(ns)-fine-1)
	return shift*half + int(ns>>shift)
}

// upper is the largest duration of a bucket.
func upper(i int) time.Duration {
	if i < 2*half {
		return time.Duration(i)
	}
	shift := i/half - 1
	return time.Duration(uint64(i-shift*half+1)<<shift - 1)
}
