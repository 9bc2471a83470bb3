package history

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// writer is one client: a goroutine that does one operation after another,
// each on its connection to the database concerned.
type writer struct {
	h       *History
	n       int
	rng     *rand.Rand
	clients map[int]*redis.Client // by database; one connection each
	last    map[*counter]int64    // the writer's latest reply of each counter
	failing time.Time             // start of the first operation since the last success; zero if that was a success
	pause   time.Duration         // before the next operation, after refusals
}

func newWriter(h *History, n int) *writer {
	return &writer{
		h: h, n: n,
		rng:     rand.New(rand.NewPCG(uint64(n), 0x5eed)),
		clients: make(map[int]*redis.Client),
		last:    make(map[*counter]int64),
	}
}

// run writes until ctx is cancelled, and closes the connections.
func (w *writer) run(ctx context.Context) {
	defer w.closeAll()
	w.failing = time.Time{}
	next := time.Now()
	for ctx.Err() == nil {
		if w.h.cfg.Turn != nil {
			if w.h.cfg.Turn(ctx, w.n); ctx.Err() != nil {
				return
			}
		}
		s := w.h.spaces[w.rng.IntN(len(w.h.spaces))]
		if !w.connect(ctx, s.db) {
			return
		}
		// The operation's context is not cancelled with ours: it is to
		// come to its own end.
		opCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.h.cfg.OpTimeout)
		w.step(opCtx, s)
		cancel()
		wait := w.pause
		if w.h.cfg.MaxRate > 0 {
			next = next.Add(time.Second / time.Duration(w.h.cfg.MaxRate))
			if now := time.Now(); next.Before(now) {
				next = now // no catching up after a stall
			}
			wait = max(wait, time.Until(next))
		}
		rest(ctx, wait)
	}
}

// rest waits for d, or until ctx is cancelled.
func rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// step does one operation of a random kind.
func (w *writer) step(ctx context.Context, s *space) {
	kind := w.h.cfg.Kinds[w.rng.IntN(len(w.h.cfg.Kinds))]
	k := w.rng.IntN(w.h.cfg.Keys)
	switch kind {
	case Incr:
		w.incr(ctx, s, s.counters[k])
	case HIncrBy:
		w.incr(ctx, s, s.fields[k*hashFields+w.rng.IntN(hashFields)])
	case Register, SetEx:
		w.register(ctx, s, kind, k)
	default:
		if w.h.items.Add(1) > w.h.cfg.MaxItems {
			w.h.items.Add(-1)
			w.afterItems(ctx, s, k)
			return
		}
		w.item(ctx, s, s.series[kind][k])
	}
}

// afterItems keeps the load up without using more memory, once as many ids are
// out as are allowed.
func (w *writer) afterItems(ctx context.Context, s *space, k int) {
	switch {
	case len(s.regs[Register]) > 0:
		w.register(ctx, s, Register, k)
	case len(s.counters) > 0:
		w.incr(ctx, s, s.counters[k])
	default:
		w.pause = 5 * time.Millisecond
	}
}

// client returns the writer's client for db, made on the first use.
func (w *writer) client(db int) *redis.Client {
	if c := w.clients[db]; c != nil {
		return c
	}
	cfg := &w.h.cfg
	addr := cfg.Addr
	if n := len(cfg.Addrs); n > 0 {
		addr = cfg.Addrs[w.n%n]
	}
	c := redis.NewClient(&redis.Options{
		Addr: addr, Username: cfg.Username, Password: cfg.Password, DB: db, Protocol: cfg.Protocol,
		PoolSize: 1, MaxActiveConns: 1, PipelinePoolSize: -1, // one connection, for pipelines too
		MaxRetries: -1, DialerRetries: 1, // a retry would hide what happened
		ReadTimeout: cfg.OpTimeout, WriteTimeout: cfg.OpTimeout, DialTimeout: cfg.OpTimeout,
		ContextTimeoutEnabled: true, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	w.clients[db] = c
	return c
}

// drop throws the client away: a broken pool waits for a second before it
// dials again, a new one does not.
func (w *writer) drop(db int) {
	if c := w.clients[db]; c != nil {
		_ = c.Close()
		delete(w.clients, db)
	}
}

func (w *writer) closeAll() {
	for db := range w.clients {
		w.drop(db)
	}
}

// connect makes sure of a connection to db, so that an operation that fails
// has been sent. It returns false when ctx is cancelled first.
func (w *writer) connect(ctx context.Context, db int) bool {
	if w.clients[db] != nil {
		return true
	}
	pause := time.Millisecond
	for ctx.Err() == nil {
		start := time.Now()
		err := w.client(db).Ping(ctx).Err()
		if err == nil || isReply(err) && !w.h.cfg.refuses(err.Error()) {
			return true
		}
		if ctx.Err() != nil {
			break
		}
		w.h.stats.failed(err)
		w.fail(start)
		w.drop(db)
		rest(ctx, pause)
		pause = min(2*pause, 10*time.Millisecond)
	}
	return false
}

// fail remembers since when nothing has succeeded.
func (w *writer) fail(start time.Time) {
	if w.failing.IsZero() {
		w.failing = start
	}
}

// done takes down how an operation went: latency, stall, errors, connection.
// It returns the outcome for the caller to record.
func (w *writer) done(s *space, start time.Time, err error) outcome {
	return w.settle(s, start, err, w.h.cfg.classify(err))
}

func (w *writer) settle(s *space, start time.Time, err error, o outcome) outcome {
	now := time.Now()
	raise(&w.h.stats.longestOp, now.Sub(start))
	if o == acked {
		if w.failing.IsZero() {
			w.failing = start
		}
		raise(&w.h.stats.longestGap, now.Sub(w.failing))
		raise(&w.h.stats.gap, now.Sub(w.failing))
		w.failing, w.pause = time.Time{}, 0
		return o
	}
	if err == nil {
		err = errors.New("answered, but not as expected")
	}
	w.h.stats.failed(err)
	w.fail(start)
	if isReply(err) {
		w.pause = min(max(2*w.pause, time.Millisecond), 5*time.Millisecond)
		return o
	}
	w.drop(s.db)
	w.h.stats.reconnects.Add(1)
	return o
}
