package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

const ackLibrary = "#!lua name=lib\nredis.register_function('ack', function(keys, args) return redis.call('XACK', keys[1], 'g', args[1]) end)"

// acknowledging has functions acknowledge through the proxy all the time, by clients that
// come and go, and nobody but an exporter that comes and goes past it.
type acknowledging struct {
	src, dst *redistest.Server
	c        *sidecar
	acked    atomic.Int64
	stop     context.CancelFunc
	all      sync.WaitGroup
}

func newAcknowledging(t *testing.T, upstream string) *acknowledging {
	t.Helper()
	a := &acknowledging{src: redistest.Start(t), dst: redistest.Start(t)}
	a.c = newSidecar(t, setup{source: a.src.URL(0), target: a.dst.URL(0), extra: []string{"--proxy.upstream", upstream}})
	a.c.start("")
	a.c.awaitReady()
	app := a.client(a.c.addr)
	defer func() { _ = app.Close() }()
	if err := app.FunctionLoad(t.Context(), ackLibrary).Err(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	t.Cleanup(a.end)
	for w := range 3 {
		a.all.Go(func() { a.work(ctx, t, fmt.Sprintf("stream:%d", w)) })
	}
	for _, s := range []*redistest.Server{a.src, a.dst} {
		a.all.Go(func() { a.export(ctx, s.Addr()) })
	}
	a.more(t, 100)
	return a
}

func (a *acknowledging) client(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, PoolSize: 1})
}

// end returns once nobody acknowledges any more.
func (a *acknowledging) end() {
	a.stop()
	a.all.Wait()
}

// work has a new client for every few entries. They are numbered, so that an order lost
// would be an error.
func (a *acknowledging) work(ctx context.Context, t *testing.T, stream string) {
	for n := 0; ctx.Err() == nil; {
		app := a.client(a.c.addr)
		err := error(nil)
		if n == 0 {
			err = app.XGroupCreateMkStream(t.Context(), stream, "g", "0").Err()
		}
		for i := 0; i < 10 && err == nil; i++ {
			n++
			id := fmt.Sprintf("1-%d", n)
			err = errors.Join(
				app.XAdd(t.Context(), &redis.XAddArgs{Stream: stream, ID: id, Values: []string{"f", "v"}}).Err(),
				app.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "c", Streams: []string{stream, ">"}}).Err())
			if err == nil {
				var did int64
				did, err = app.FCall(t.Context(), "ack", []string{stream}, id).Int64()
				if err == nil && did != 1 {
					err = fmt.Errorf("%s acknowledged %d", id, did)
				}
			}
			a.acked.Add(1)
		}
		_ = app.Close()
		if err != nil {
			t.Errorf("%s through the proxy: %v", stream, err)
			return
		}
	}
}

// export looks at a server now and then, as monitoring does, by a connection of its own.
func (a *acknowledging) export(ctx context.Context, addr string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		c := a.client(addr)
		_ = c.Info(ctx).Err() // refused behind a fence
		_ = c.Close()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (a *acknowledging) more(t *testing.T, n int64) {
	t.Helper()
	before := a.acked.Load()
	redistest.Eventually(t, 30*time.Second, func() error {
		if got := a.acked.Load() - before; got < n {
			return fmt.Errorf("%d acknowledged", got)
		}
		return nil
	}, "clients of the proxy acknowledge")
}

// nonePending checks the streams of the proxy's clients, once they have ended.
func (a *acknowledging) nonePending(t *testing.T, s *redistest.Server) {
	t.Helper()
	for w := range 3 {
		stream := fmt.Sprintf("stream:%d", w)
		left, err := s.Client(0).XPending(t.Context(), stream, "g").Result()
		if err != nil || left.Count > 0 {
			t.Errorf("pending of %s after the switches: %+v, %v", stream, left, err)
		}
	}
}

// TestSilentWritesInScripts: what scripts and functions run is no gap, and nothing that
// keeps a switch from being made.
func TestSilentWritesInScripts(t *testing.T) {
	t.Parallel()
	for _, upstream := range []string{"shared", "pinned"} {
		t.Run(upstream, func(t *testing.T) {
			t.Parallel()
			a := newAcknowledging(t, upstream)
			for _, verb := range []func() (migration.Report, error){a.c.cutover, a.c.rollback, a.c.cutover} {
				if _, err := verb(); err != nil {
					t.Fatal(err)
				}
				a.more(t, 100)
				a.c.awaitReady()
			}
			if s, err := a.c.status(); err != nil || s.Gaps > 0 {
				t.Errorf("functions through the proxy: %d gaps, %v", s.Gaps, err)
			}
			a.end()
			a.nonePending(t, a.dst)
		})
	}
}

// TestSilentWritesPastTheProxyBesideScripts: nor do they hide those of a client past the
// proxy, up to the moment from which that is refused.
func TestSilentWritesPastTheProxyBesideScripts(t *testing.T) {
	t.Parallel()
	for _, upstream := range []string{"shared", "pinned"} {
		t.Run(upstream, func(t *testing.T) {
			t.Parallel()
			a := newAcknowledging(t, upstream)
			for round, side := range []router.Side{router.Source, router.Target} {
				left, entered, verb := a.src, a.dst, a.c.cutover
				if side == router.Target {
					left, entered, verb = a.dst, a.src, a.c.rollback
				}
				stream := fmt.Sprintf("past:%d", round)
				wait := a.acknowledgePast(t, left.Addr(), stream)
				r, err := verb()
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("held for %.1f ms", r.Held)
				acked, total := wait()
				pending, err := entered.Client(0).XPending(t.Context(), stream, "g").Result()
				if err != nil || pending.Count != int64(total-acked) {
					t.Errorf("of %d entries %d were acknowledged past the proxy, and of %s are pending: %+v, %v", total, acked, stream, pending, err)
				}
				a.more(t, 100)
				a.c.awaitReady()
			}
			a.end()
			a.nonePending(t, a.src)
		})
	}
}

// acknowledgePast has a client past the proxy acknowledge entry by entry until it is
// refused, which the returned function waits for; half of them by connections that are
// closed behind each.
func (a *acknowledging) acknowledgePast(t *testing.T, addr, stream string) (wait func() (acked, total int)) {
	t.Helper()
	ctx := t.Context()
	c := a.client(addr)
	const total = 3_000
	pipe := c.Pipeline()
	pipe.XGroupCreateMkStream(ctx, stream, "g", "0")
	for i := range total {
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: stream, ID: fmt.Sprintf("1-%d", i+1), Values: []string{"f", "v"}})
	}
	pipe.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: "c", Streams: []string{stream, ">"}, Count: total})
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	a.c.awaitReady()
	acked, refusal := 0, error(nil)
	var done sync.WaitGroup
	done.Go(func() {
		defer func() { _ = c.Close() }()
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for acked < total && refusal == nil {
			<-pace.C
			by := c
			if acked%2 == 1 {
				by = a.client(addr)
			}
			var n int64
			if n, refusal = by.XAck(ctx, stream, "g", fmt.Sprintf("1-%d", acked+1)).Result(); refusal == nil {
				acked += int(n)
			}
			if by != c {
				_ = by.Close()
			}
		}
	})
	return func() (int, int) {
		done.Wait()
		if !redis.HasErrorPrefix(refusal, "NOPERM") {
			t.Errorf("the client past the proxy ended with %v", refusal)
		}
		t.Logf("%s: %d acknowledged past the proxy", stream, acked)
		return acked, total
	}
}
