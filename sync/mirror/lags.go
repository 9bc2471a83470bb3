package mirror

import (
	"slices"
	"time"
)

// Lags are percentiles of the lag, of so many of the latest heartbeats. All and Sum are
// of all that have arrived since the mirror began.
type Lags struct {
	P50, P99 time.Duration
	Beats    int
	All      int
	Sum      time.Duration
}

// recentLags are the latest measured lags: five minutes' worth at a beat a second.
// The owner's lock guards them.
type recentLags struct {
	last [300]time.Duration
	n    int // how many there have been
	sum  time.Duration
}

func (r *recentLags) add(d time.Duration) {
	r.last[r.n%len(r.last)] = d
	r.n++
	r.sum += d
}

func (r *recentLags) percentiles() Lags {
	l := Lags{Beats: min(r.n, len(r.last)), All: r.n, Sum: r.sum}
	if l.Beats == 0 {
		return l
	}
	sorted := slices.Sorted(slices.Values(r.last[:l.Beats]))
	l.P50, l.P99 = sorted[l.Beats/2], sorted[l.Beats*99/100]
	return l
}
