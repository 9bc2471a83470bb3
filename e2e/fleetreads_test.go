package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// lookouts find out whether any sidecar serves an older read than another one has before. Each
// key has one writer, who writes ever higher numbers one after the other, and is given up
// for another one once the outcome of a write is not known. So a read must not find less
// than what was acknowledged, or read by anybody, before it was sent, and not more than what
// was sent before it was answered: nothing else is linearizable.
type lookouts struct {
	tb     testing.TB
	stop   context.CancelFunc
	all    sync.WaitGroup
	keys   []atomic.Pointer[lookedAt] // by sidecar
	next   atomic.Int64
	worst  atomic.Int64 // ns that an operation took, since it was last asked for
	reads  atomic.Int64
	lost   atomic.Int64 // operations whose connection was lost
	told   atomic.Int64 // error replies
	mu     sync.Mutex
	errors []string
}

type lookedAt struct {
	name              string
	begun, acked, got atomic.Int64
}

// watchFrom has a writer and two readers beside each address.
func watchFrom(tb testing.TB, addrs []string) *lookouts {
	ctx, cancel := context.WithCancel(context.Background())
	w := &lookouts{tb: tb, stop: cancel, keys: make([]atomic.Pointer[lookedAt], len(addrs))}
	for i := range addrs {
		w.renew(i)
	}
	for i, addr := range addrs {
		w.all.Go(func() { w.write(ctx, addr, i) })
		for r := range 2 {
			w.all.Go(func() { w.read(ctx, addr, i+1+r) })
		}
	}
	tb.Cleanup(w.end)
	return w
}

func (w *lookouts) end() {
	w.stop()
	w.all.Wait()
}

func (w *lookouts) renew(i int) *lookedAt {
	k := &lookedAt{name: fmt.Sprintf("lookedAt:%d", w.next.Add(1))}
	w.keys[i].Store(k)
	return k
}

// note counts what went wrong with an operation; true: its outcome is known.
func (w *lookouts) note(err error) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		w.lost.Add(1)
		return false
	}
	w.told.Add(1)
	w.complain("an error reply: " + err.Error())
	return true
}

func (w *lookouts) complain(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errors) < 20 {
		w.errors = append(w.errors, text)
	}
}

func (w *lookouts) client(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, PoolSize: 1, MaxActiveConns: 1, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, DialTimeout: time.Second,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// loop calls f until ctx ends, with a new client after it has returned false.
func (w *lookouts) loop(ctx context.Context, addr string, f func(c *redis.Client) bool) {
	c := w.client(addr)
	defer func() { _ = c.Close() }()
	for ctx.Err() == nil {
		began := time.Now()
		fine := f(c)
		took := int64(time.Since(began))
		for was := w.worst.Load(); took > was && !w.worst.CompareAndSwap(was, took); was = w.worst.Load() {
		}
		pause := 2 * time.Millisecond
		if !fine {
			_ = c.Close()
			c, pause = w.client(addr), 50*time.Millisecond
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (w *lookouts) write(ctx context.Context, addr string, i int) {
	w.loop(ctx, addr, func(c *redis.Client) bool {
		k := w.keys[i].Load()
		n := k.begun.Add(1)
		err := c.Set(context.WithoutCancel(ctx), k.name, n, 0).Err()
		if err != nil {
			known := w.note(err)
			w.renew(i)
			return known
		}
		k.acked.Store(n)
		return true
	})
}

func (w *lookouts) read(ctx context.Context, addr string, i int) {
	at := i
	w.loop(ctx, addr, func(c *redis.Client) bool {
		at++
		k := w.keys[at%len(w.keys)].Load()
		least := max(k.acked.Load(), k.got.Load())
		got, err := c.Get(context.WithoutCancel(ctx), k.name).Int64()
		if errors.Is(err, redis.Nil) {
			err = nil
		}
		if err != nil {
			return w.note(err)
		}
		most := k.begun.Load()
		if got < least || got > most {
			w.complain(fmt.Sprintf("%s is %d by %s; it was %d before, and at most %d was written", k.name, got, addr, least, most))
		}
		w.reads.Add(1)
		for was := k.got.Load(); got > was && !k.got.CompareAndSwap(was, got); was = k.got.Load() {
		}
		return true
	})
}

// longest returns how long an operation has taken at most since the last call.
func (w *lookouts) longest() time.Duration { return time.Duration(w.worst.Swap(0)) }

// mustHold fails on a stale read and, unless lossy, on any error that a client has seen.
func (w *lookouts) mustHold(lossy bool) {
	w.tb.Helper()
	w.end()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errors) > 0 {
		w.tb.Errorf("the fleet's clients saw what they must not:\n%s", strings.Join(w.errors, "\n"))
	}
	if lost := w.lost.Load(); lost > 0 && !lossy {
		w.tb.Errorf("%d operations of the fleet's clients lost their connection", lost)
	}
	w.tb.Logf("%d reads across the fleet, %d lost connections", w.reads.Load(), w.lost.Load())
}

func median(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}
