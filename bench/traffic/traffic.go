// Package traffic is a mixed load by sessions of every kind, which keep account of all that they do.
// It owns its clients, the keys under its prefix and the accounts; package history has the plain part of it.
// It never repeats an operation, and never touches keys of others.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/crossfade/crossfade/internal/redistest/history"
)

// Config says where the load goes.
type Config struct {
	Addr   string
	Rate   int    // operations a second, about
	Prefix string // of all keys and channels; must not have been used before
}

// Traffic is the load. Run makes it, Verify says what became of it.
type Traffic struct {
	cfg   Config
	clock *clock
	plain []*history.History
	flows []flow

	operations, errors, reconnects atomic.Int64
	gap                            atomic.Int64 // nanoseconds, since TakeStall
	lastError                      atomic.Pointer[string]
	opened                         sync.WaitGroup // of subscriptions: nobody publishes before
}

// flow is one kind of session.
type flow interface {
	// run works until ctx ends, and then until what it has begun has ended.
	run(ctx context.Context)
	// verify reads from c what is left, when nobody works any more.
	verify(ctx context.Context, c *redis.Client, into *Account) error
}

// databases are used by the plain part; the others stay in the first one.
var databases = []int{0, 1}

// opTimeout is until an operation that is not answered counts as one of unknown outcome.
const opTimeout = 15 * time.Second

// Of a hundred operations, so many are of each sort. Plain ones are sent one by one, each
// once the one before is answered; those of a pipeline or a transaction count one by one.
const (
	plainShare   = 30
	groupedShare = 4 // transactions that are sent as they are, and scripts
	pipedShare   = 50
	watchedShare = 6
	queueShare   = 4
	channelShare = 2
	streamShare  = 4
)

// Which operations of the plain part are alone, and which are several in one.
var (
	plainKinds   = []history.Kind{history.Incr, history.HIncrBy, history.RPush, history.ZAdd, history.XAdd, history.Register, history.SetEx}
	groupedKinds = []history.Kind{history.Transfer, history.Script}
)

// New returns a load that does nothing yet.
func New(cfg Config) *Traffic {
	t := &Traffic{cfg: cfg, clock: newClock()}
	rate := float64(cfg.Rate) / 100
	for _, protocol := range []int{2, 3} {
		t.plain = append(t.plain,
			t.history("plain", protocol, 4, rate*plainShare/2, plainKinds),
			t.history("grouped", protocol, 2, rate*groupedShare/2, groupedKinds))
	}
	for i := range 4 {
		t.flows = append(t.flows, newPipelines(t, i, rate*pipedShare/4/pipelined))
	}
	for i := range 2 {
		t.flows = append(t.flows,
			newTransactions(t, i, rate*watchedShare/2/2/watched),
			newQueue(t, i, rate*queueShare/2/2), // pushed and popped
			newChannel(t, i, rate*channelShare/2),
			newStream(t, i, rate*streamShare/2/4)) // added, read, acknowledged, and followed
	}
	return t
}

// history returns a part of the load that package history makes, of so many operations a
// second in all.
func (t *Traffic) history(name string, protocol, writers int, rate float64, kinds []history.Kind) *history.History {
	lines := make([]*line, writers)
	for i := range lines {
		lines[i] = t.clock.line(rate / float64(writers))
	}
	return history.New(history.Config{
		Addr: t.cfg.Addr, Databases: databases, Writers: writers, Protocol: protocol, OpTimeout: opTimeout, Kinds: kinds,
		Prefix: fmt.Sprintf("%s:%s%d", t.cfg.Prefix, name, protocol), ItemsPerKey: perKey,
		Turn: func(ctx context.Context, writer int) { lines[writer].await(ctx) },
	})
}

// Run works until ctx ends.
func (t *Traffic) Run(ctx context.Context) error {
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(t.plain))
	)
	ticking, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go t.clock.run(ticking)
	for i, h := range t.plain {
		wg.Go(func() { errs[i] = h.Run(ctx) })
	}
	for _, f := range t.flows {
		wg.Go(func() { f.run(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stats are what clients have seen so far.
type Stats struct {
	Operations int64 // that were answered; each command of a pipeline or transaction counts
	Errors     int64 // of every sort, but for a WATCH that was overtaken
	Reconnects int64
	LastError  string
}

// Stats may be asked for at any time.
func (t *Traffic) Stats() Stats {
	s := Stats{Operations: t.operations.Load(), Errors: t.errors.Load(), Reconnects: t.reconnects.Load()}
	if text := t.lastError.Load(); text != nil {
		s.LastError = *text
	}
	for _, h := range t.plain {
		p := h.Stats()
		s.Operations += int64(p.Acked + p.Reads)
		s.Errors += int64(p.Errors)
		s.Reconnects += int64(p.Reconnects)
		if p.LastError != "" {
			s.LastError = p.LastError
		}
	}
	return s
}

// TakeStall returns the longest time from the begin of an operation until it, or the next
// one of the same client, succeeded, of those that ended since the last call. Operations
// that wait for others by themselves do not count.
func (t *Traffic) TakeStall() time.Duration {
	longest := time.Duration(t.gap.Swap(0))
	for _, h := range t.plain {
		longest = max(longest, h.TakeStall())
	}
	return longest
}

// Verify reads what there is at addr, in which all has ended, and compares it with the
// accounts. Nobody may work meanwhile.
func (t *Traffic) Verify(ctx context.Context, addr string) (Account, error) {
	a := Account{Stats: t.Stats()}
	for _, h := range t.plain {
		r, err := h.Verify(ctx, addr, history.Creds{}, nil)
		if err != nil {
			return a, err
		}
		a.history(r)
	}
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DisableIdentity: true, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
	defer func() { _ = c.Close() }()
	for _, f := range t.flows {
		if err := f.verify(ctx, c, &a); err != nil {
			return a, err
		}
	}
	return a, nil
}

// client is one client with one connection.
type client struct {
	*redis.Client
	t       *Traffic
	failing time.Time // begin of the first operation since the last success; zero if that was one
}

func (t *Traffic) client(protocol int) *client {
	var dialled atomic.Bool
	return &client{t: t, Client: redis.NewClient(&redis.Options{
		Addr: t.cfg.Addr, Protocol: protocol, PoolSize: 1, PipelinePoolSize: -1,
		MaxRetries: -1, DialerRetries: 1, // a retry would hide what happened
		ReadTimeout: opTimeout, WriteTimeout: opTimeout, DialTimeout: opTimeout,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dialled.Swap(true) {
				t.reconnects.Add(1)
			}
			return (&net.Dialer{Timeout: opTimeout}).DialContext(ctx, network, addr)
		},
	})}
}

// bare is for an operation that comes to its own end: an answer is waited for until
// opTimeout, by the client's settings.
func bare(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// did takes down how n operations went that were begun at start. It returns false when
// they failed.
func (c *client) did(start time.Time, n int, err error) bool {
	if !c.waited(n, err) {
		if c.failing.IsZero() {
			c.failing = start
		}
		return false
	}
	if c.failing.IsZero() {
		c.failing = start
	}
	raise(&c.t.gap, time.Since(c.failing))
	c.failing = time.Time{}
	return true
}

// waited is did for operations whose length says nothing.
func (c *client) waited(n int, err error) bool {
	if err == nil || errors.Is(err, redis.Nil) {
		c.t.operations.Add(int64(n))
		return true
	}
	c.t.errors.Add(1)
	text := err.Error()
	c.t.lastError.Store(&text)
	return false
}

func raise(v *atomic.Int64, to time.Duration) {
	for {
		old := v.Load()
		if int64(to) <= old || v.CompareAndSwap(old, int64(to)) {
			return
		}
	}
}

// paced calls step so many times a second until ctx ends. After a failure it rests a
// moment.
func (t *Traffic) paced(ctx context.Context, rate float64, step func() bool) {
	l := t.clock.line(rate)
	for l.await(ctx) {
		if step() {
			continue
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
