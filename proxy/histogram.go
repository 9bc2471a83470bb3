package proxy

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// buckets is how many a Histogram has: two for each power of two from 1 µs to
// 67 s, and one for what takes longer.
const buckets = 54

// Histogram counts durations. Whoever fills one owns it; a copy is a snapshot.
type Histogram struct {
	Buckets [buckets]int64
	Sum     time.Duration
}

// bucket returns the bucket of a duration in nanoseconds: the first one whose
// Bound is not below it.
func bucket(ns int64) int {
	if ns <= 1000 {
		return 0
	}
	// In halves of a microsecond the bounds are whole: 2, 3, 4, 6, 8, 12, …
	w := uint64(ns-1) / 500
	e := bits.Len64(w) - 1
	return min(2*e-1+int(w>>(e-1)&1), buckets-1)
}

// Bound returns the longest duration that bucket i counts. The last one has none,
// and returns a negative number.
func Bound(i int) time.Duration {
	const half = 500 * time.Nanosecond
	switch {
	case i == buckets-1:
		return -1
	case i == 0:
		return 2 * half
	case i%2 == 1:
		return half * 3 << ((i - 1) / 2)
	}
	return half * 4 << ((i - 2) / 2)
}

// observe counts n durations of so many nanoseconds each.
func (h *Histogram) observe(ns, n int64) {
	h.Buckets[bucket(ns)] += n
	h.Sum += time.Duration(ns * n)
}

// Count returns how many were observed.
func (h *Histogram) Count() int64 {
	var n int64
	for _, b := range h.Buckets {
		n += b
	}
	return n
}

// Quantile returns the duration that a share q of all does not exceed: 0.5 is the
// median. It is read between the bounds of a bucket, so it may be wrong by a
// third. Without observations it is 0; past the last bound it is that bound.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Count()
	if total == 0 {
		return 0
	}
	rank, below := q*float64(total), int64(0)
	for i, n := range h.Buckets[:buckets-1] {
		if n == 0 || float64(below+n) < rank {
			below += n
			continue
		}
		var low time.Duration
		if i > 0 {
			low = Bound(i - 1)
		}
		return low + time.Duration(float64(Bound(i)-low)*max(0, rank-float64(below))/float64(n))
	}
	return Bound(buckets - 2)
}

// Mean returns the mean duration, 0 without observations.
func (h *Histogram) Mean() time.Duration {
	if n := h.Count(); n > 0 {
		return h.Sum / time.Duration(n)
	}
	return 0
}

// add adds what another one has counted, k times: 1, or -1 to take it away.
func (h *Histogram) add(other *Histogram, k int64) {
	for i, n := range other.Buckets {
		h.Buckets[i] += k * n
	}
	h.Sum += time.Duration(k) * other.Sum
}

// sharedHistogram is one that many goroutines fill.
type sharedHistogram struct {
	buckets [buckets]atomic.Int64
	sum     atomic.Int64
}

func (h *sharedHistogram) observe(ns, n int64) {
	h.buckets[bucket(ns)].Add(n)
	h.sum.Add(ns * n)
}

// addTo adds what was counted to a snapshot.
func (h *sharedHistogram) addTo(into *Histogram) {
	for i := range h.buckets {
		into.Buckets[i] += h.buckets[i].Load()
	}
	into.Sum += time.Duration(h.sum.Load())
}
