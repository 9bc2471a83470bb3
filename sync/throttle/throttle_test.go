package throttle

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scan copies n keys through t, batch by batch, and returns how long that took.
func scan(ctx context.Context, t *testing.T, th *Throttle, n int, spent func(int)) time.Duration {
	t.Helper()
	begun := time.Now()
	for n > 0 {
		k := min(th.Batch(256), n)
		if err := th.Wait(ctx, k); err != nil {
			t.Fatal(err)
		}
		spent(k)
		n -= k
	}
	return time.Since(begun)
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := New(Limits{Keys: 10_000}, nil)
		if took := scan(t.Context(), t, th, 50_000, func(int) {}); took < 4900*time.Millisecond || took > 5*time.Second {
			t.Errorf("50 000 keys at 10 000/s took %v", took)
		}
		th.Set(Limits{Bytes: 1_000_000})
		took := scan(t.Context(), t, th, 51_200, func(k int) { th.Spent(int64(100 * k)) })
		if took < 5*time.Second || took > 5300*time.Millisecond {
			t.Errorf("5.12 MB at 1 MB/s took %v", took)
		}
		th.Set(Limits{})
		if took := scan(t.Context(), t, th, 1_000_000, func(int) {}); took > 0 {
			t.Errorf("without limits it took %v", took)
		}
	})
}

// idle lets so much of a bubble's time pass in which nothing may go.
func idle(t *testing.T, th *Throttle, d time.Duration) {
	t.Helper()
	th.Pause(true)
	defer th.Pause(false)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := th.Wait(ctx, 1); err == nil {
		t.Error("keys went through a pause")
	}
}

// TestIdleTimeIsNoCredit leaves a throttle alone, which must not make up for it at once.
func TestIdleTimeIsNoCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := New(Limits{Keys: 1000}, nil)
		scan(t.Context(), t, th, 256, func(int) {})
		idle(t, th, time.Hour)
		if took := scan(t.Context(), t, th, 2560, func(int) {}); took < 2*time.Second {
			t.Errorf("2560 keys at 1000/s took %v after an idle hour", took)
		}
	})
}

func TestPauseAndHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := New(Limits{Keys: 1}, nil)
		th.Pause(true)
		went := make(chan time.Duration, 1)
		begun := time.Now()
		go func() {
			_ = th.Wait(t.Context(), 1)
			went <- time.Since(begun)
		}()
		synctest.Wait() // it waits, and for nothing but an end of the pause
		select {
		case <-went:
			t.Fatal("keys went through a pause")
		default:
		}
		th.Pause(false)
		if d := <-went; d > 0 {
			t.Errorf("went %v after the end of a pause", d)
		}
		th.Pause(true)
		end := th.Hurry()
		if took := scan(t.Context(), t, th, 10_000, func(int) {}); took > 0 {
			t.Errorf("a drain waited %v", took)
		}
		end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := th.Wait(ctx, 1); err == nil {
			t.Error("keys went through a pause after a drain")
		}
	})
}

// clients are served rate commands a second, and notice a scan that is faster than
// bears keys a second.
type clients struct {
	rate  float64
	bears float64

	mu    sync.Mutex
	seen  time.Time
	n, ns float64
	speed float64 // of the scan, keys a second, of late
	last  time.Time
}

func (c *clients) served() Served {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass()
	return Served{Commands: int64(c.n), Time: time.Duration(c.ns)}
}

func (c *clients) pass() {
	d := time.Since(c.seen).Seconds()
	c.seen = time.Now()
	if time.Since(c.last) > 40*time.Millisecond { // it rests
		c.speed = 0
	}
	mean, rate := 300e3, c.rate
	if c.speed > c.bears {
		mean *= c.speed / c.bears * 1.5
		rate *= c.bears / c.speed
	}
	c.n += d * rate
	c.ns += d * rate * mean
}

// copied has the scan's speed be that of the last keys, which took some time, even where
// a bubble's clock says that they took none.
func (c *clients) copied(took time.Duration, keys int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass()
	c.speed, c.last = float64(keys)/max(took, time.Millisecond).Seconds(), time.Now()
}

// keysPerSecond scans for a while at 100 000 keys a second at most and returns how
// fast it went in the second half.
func keysPerSecond(t *testing.T, th *Throttle, c *clients) float64 {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		th.Run(ctx)
		close(done)
	}()
	defer func() {
		cancel()
		<-done
	}()
	machine := New(Limits{Keys: 100_000}, nil)
	begun, half, keys := time.Now(), time.Time{}, 0
	for time.Since(begun) < time.Minute {
		at := time.Now()
		k := th.Batch(256)
		if err := th.Wait(ctx, k); err != nil {
			t.Fatal(err)
		}
		if err := machine.Wait(ctx, k); err != nil {
			t.Fatal(err)
		}
		c.copied(time.Since(at), k)
		if half.IsZero() && time.Since(begun) > 30*time.Second {
			half, keys = time.Now(), 0
		}
		keys += k
	}
	return float64(keys) / time.Since(half).Seconds()
}

// TestFewClientsWaitBehindFewKeys has clients that are too few for a comparison.
func TestFewClientsWaitBehindFewKeys(t *testing.T) {
	for _, c := range []struct {
		rate      float64
		most, far int
	}{{0, 256, 4096}, {100, gentleBatch, 512}} {
		synctest.Test(t, func(t *testing.T) {
			few := &clients{rate: c.rate, bears: 1e9, seen: time.Now()}
			th := New(Limits{}, few.served)
			if got := keysPerSecond(t, th, few); got < 70_000 {
				t.Errorf("%.0f keys/s beside %.0f commands/s", got, c.rate)
			}
			if n, far := th.Batch(256), th.Batch(4096); n != c.most || far != c.far {
				t.Errorf("%d and %d keys at once beside %.0f commands/s, not %d and %d", n, far, c.rate, c.most, c.far)
			}
		})
	}
}

func TestPacedByClients(t *testing.T) {
	for _, c := range []struct {
		name        string
		clients     *clients
		least, most float64
	}{
		{"nobody", &clients{rate: 0, bears: 1}, 97_000, 100_100},
		{"who bear everything", &clients{rate: 20_000, bears: 1e9}, 70_000, 100_100}, // it rests now and then
		{"who bear some", &clients{rate: 20_000, bears: 15_000}, 7_000, 17_000},
		{"who bear nothing", &clients{rate: 20_000, bears: 1}, .7 * leastPace, 1.1 * leastPace},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.clients.seen = time.Now()
				th := New(Limits{}, c.clients.served)
				if got := keysPerSecond(t, th, c.clients); got < c.least || got > c.most {
					t.Errorf("%.0f keys/s, not %.0f to %.0f", got, c.least, c.most)
				}
			})
		})
	}
}
