package mirror

import (
	"sync"
	"time"
)

// How many keys go in one round trip, where the configuration does not say.
const (
	leastBatch = 256
	mostBatch  = 4096
	batchBytes = 4 << 20 // of payload in one, as far as the last ones tell

	leastScan = 1000
	mostScan  = 2000 // a server is busy with that for about two milliseconds
	farAway   = 5 * time.Millisecond
)

// batchSize chooses how many keys go in one round trip of a lane: so many that the
// servers work for longer than the way takes. For concurrent use.
type batchSize struct {
	fixed int // by the configuration; 0: by itself

	mu  sync.Mutex
	rtt time.Duration // of the latest connections, the longer of the two
	key float64       // nanoseconds that a key takes besides
	len float64       // bytes that a key has
}

// keys returns how many keys may go at once.
func (b *batchSize) keys() int {
	if b.fixed > 0 {
		return b.fixed
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rtt < time.Millisecond || b.key == 0 {
		return leastBatch
	}
	n := 2 * float64(b.rtt) / b.key
	if b.len > 0 {
		n = min(n, batchBytes/b.len)
	}
	return int(min(mostBatch, max(leastBatch, n)))
}

// took notes that a job of n keys and so many bytes took d over connections of that
// round-trip time.
func (b *batchSize) took(n int, bytes int64, d, rtt time.Duration) {
	if b.fixed > 0 || n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	const weight = .2 // of the latest
	key, size := float64(max(d-rtt, 0))/float64(n), float64(bytes)/float64(n)
	if b.key == 0 {
		b.key, b.len = max(key, 1), size
	} else {
		b.key, b.len = max(1, b.key+weight*(key-b.key)), b.len+weight*(size-b.len)
	}
	b.rtt = rtt
}

// scan returns the COUNT for a scan, where the configuration says count.
func (b *batchSize) scan(count int) int {
	if count > 0 {
		return count
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rtt >= farAway {
		return mostScan
	}
	return leastScan
}
