package mirror

import (
	"testing"
	"time"
)

func TestBatchSize(t *testing.T) {
	for _, c := range []struct {
		name  string
		fixed int
		key   time.Duration // that each takes
		bytes int64         // that each has
		rtt   time.Duration
		least int
		most  int
		scan  int
	}{
		{"near", 0, 10 * time.Microsecond, 100, 100 * time.Microsecond, leastBatch, leastBatch, leastScan},
		{"far", 0, 10 * time.Microsecond, 100, 10 * time.Millisecond, 1900, 2100, mostScan},
		{"farther", 0, 10 * time.Microsecond, 100, 100 * time.Millisecond, mostBatch, mostBatch, mostScan},
		{"far and slow", 0, time.Millisecond, 100, 10 * time.Millisecond, leastBatch, leastBatch, mostScan},
		{"far and large", 0, 10 * time.Microsecond, 4000, 100 * time.Millisecond, 1000, 1100, mostScan},
		{"told", 7, 10 * time.Microsecond, 100, 100 * time.Millisecond, 7, 7, leastScan},
	} {
		b := batchSize{fixed: c.fixed}
		for range 50 {
			n := b.keys()
			b.took(n, int64(n)*c.bytes, time.Duration(n)*c.key+c.rtt, c.rtt)
		}
		if n := b.keys(); n < c.least || n > c.most {
			t.Errorf("%s: %d keys, want %d to %d", c.name, n, c.least, c.most)
		}
		if n := b.scan(0); n != c.scan {
			t.Errorf("%s: scans %d, want %d", c.name, n, c.scan)
		}
		if n := b.scan(17); n != 17 {
			t.Errorf("%s: scans %d", c.name, n)
		}
	}
}
