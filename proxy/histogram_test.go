package proxy

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestBuckets: each duration is in the bucket whose bounds hold it, and the bounds
// are what the documentation says.
func TestBuckets(t *testing.T) {
	want := []time.Duration{1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000, 16000}
	for i, b := range want {
		if Bound(i) != b {
			t.Errorf("bound %d is %v, want %v", i, Bound(i), b)
		}
	}
	if last := Bound(buckets - 2); last < time.Minute {
		t.Errorf("the last bound is %v", last)
	}
	for i := range buckets - 1 {
		for _, ns := range []int64{int64(Bound(i)), int64(Bound(i)) - 1} {
			if got := bucket(ns); got != i {
				t.Errorf("%d ns are in bucket %d, want %d", ns, got, i)
			}
		}
		if got := bucket(int64(Bound(i)) + 1); got != i+1 {
			t.Errorf("%d ns are in bucket %d, want %d", Bound(i)+1, got, i+1)
		}
	}
	if bucket(-5) != 0 || bucket(0) != 0 || bucket(1<<62) != buckets-1 {
		t.Error("the ends are elsewhere")
	}
}

// TestQuantiles: they are where sorting says, but for the width of a bucket.
func TestQuantiles(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Mean() != 0 {
		t.Error("numbers of nothing")
	}
	r := rand.New(rand.NewPCG(1, 2))
	var all []int64
	for range 10_000 {
		ns := int64(r.ExpFloat64() * 1e6)
		all = append(all, ns)
		h.observe(ns, 1)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		want := float64(all[int(q*float64(len(all)-1))])
		if got := float64(h.Quantile(q)); got < want/1.5-1000 || got > want*1.5+1000 {
			t.Errorf("quantile %v: %v, want about %v", q, time.Duration(got), time.Duration(want))
		}
	}
	if h.Quantile(0.5) > h.Quantile(0.9) {
		t.Error("a quantile above a higher one")
	}
	if n := h.Count(); n != 10_000 {
		t.Errorf("%d are counted", n)
	}
}

// TestCalls: the ring keeps the order however it is filled, and counts what is
// past its limit.
func TestCalls(t *testing.T) {
	var q calls
	r := rand.New(rand.NewPCG(3, 4))
	next, want, sent := int64(1), int64(1), int64(0)
	for range 20_000 {
		switch r.IntN(5) {
		case 0, 1:
			for range r.IntN(40) {
				q.push(call{at: next}, 1<<20)
				next++
			}
		case 2:
			q.pass(next)
			sent = next
		default:
			for range r.IntN(40) {
				c, ok := q.pop()
				if ok != (want < next) {
					t.Fatalf("pop says %v with %d of %d taken", ok, want, next)
				}
				if !ok {
					break
				}
				if c.at != want || (c.sent != 0) != (c.at < sent) {
					t.Fatalf("got %+v, want number %d; passed on up to %d", c, want, sent)
				}
				want++
			}
		}
		if q.len() != int(next-want) {
			t.Fatalf("%d in flight, want %d", q.len(), next-want)
		}
	}
	q = calls{}
	for i := range 100 {
		q.push(call{at: int64(i + 1)}, 32)
	}
	known := 0
	for i := range 100 {
		c, ok := q.pop()
		if ok {
			known++
		}
		if ok != (i < 32) || ok && c.at != int64(i+1) {
			t.Fatalf("call %d: %+v, %v", i, c, ok)
		}
	}
	if known != 32 || q.len() != 0 {
		t.Fatalf("%d remembered, %d left", known, q.len())
	}
	q.push(call{at: 7}, 32)
	if c, ok := q.pop(); !ok || c.at != 7 {
		t.Fatalf("after that: %+v, %v", c, ok)
	}
}
