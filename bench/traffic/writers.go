package traffic

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A pipeline has so many rounds, and commands in all.
const (
	rounds    = 2
	pipelined = rounds * 8
)

// perKey is how many elements a key gets before the next one is begun.
const perKey = 200

// pipelines is one client that sends pipelines, in which it reads what it has just
// written.
type pipelines struct {
	t      *Traffic
	i      int
	rate   float64
	name   string
	pushed ledger
	sights sights
	raised struct{ acked, unknown, last, since int } // of the counter; since: unknown ones after last
}

func newPipelines(t *Traffic, i int, rate float64) *pipelines {
	return &pipelines{t: t, i: i, rate: rate, name: fmt.Sprintf("%s:pipe%d", t.cfg.Prefix, i)}
}

func (f *pipelines) list(n int) string { return fmt.Sprintf("%s:list%d", f.name, n/perKey) }

func (f *pipelines) run(ctx context.Context) {
	c := f.t.client(2 + f.i%2)
	defer func() { _ = c.Close() }()
	f.t.paced(ctx, f.rate, func() bool { return f.step(ctx, c) })
}

func (f *pipelines) step(ctx context.Context, c *client) bool {
	ctx = bare(ctx)
	start := time.Now()
	p := c.Pipeline()
	var all [rounds]round
	for i := range all {
		all[i] = f.round(ctx, p)
	}
	_, err := p.Exec(ctx)
	for _, r := range all {
		f.settle(r)
	}
	return c.did(start, pipelined, err)
}

// round is eight commands of a pipeline, of which some read what others have just written.
type round struct {
	n               int
	push, incr      *redis.IntCmd
	get, end, field *redis.StringCmd
}

func (f *pipelines) round(ctx context.Context, p redis.Pipeliner) round {
	r := round{n: f.pushed.next()}
	value, key, hash, name := strconv.Itoa(r.n), f.name+":value", f.name+":hash", "f"+strconv.Itoa(r.n%8)
	p.Set(ctx, key, value, 0)
	r.get = p.Get(ctx, key)
	r.push = p.RPush(ctx, f.list(r.n), tag(0, r.n))
	r.end = p.LIndex(ctx, f.list(r.n), -1)
	r.incr = p.Incr(ctx, f.name+":count")
	p.HSet(ctx, hash, name, value)
	r.field = p.HGet(ctx, hash, name)
	p.Expire(ctx, key, time.Hour)
	return r
}

// settle looks at the answers.
func (f *pipelines) settle(r round) {
	if r.push.Err() == nil {
		f.pushed.ack(r.n)
	}
	f.mustSee("GET", r.get, strconv.Itoa(r.n))
	f.mustSee("HGET", r.field, strconv.Itoa(r.n))
	f.mustSee("LINDEX", r.end, tag(0, r.n))
	f.noteCount(r.incr)
}

// mustSee notes an answer that is not what was written right before.
func (f *pipelines) mustSee(what string, got *redis.StringCmd, want string) {
	if got.Err() == nil && got.Val() != want {
		f.sights.isStale("%s: %s in a pipeline answers %q behind the write of %q", f.name, what, got.Val(), want)
	}
}

// noteCount takes a reply of the counter down: it rises by one each time.
func (f *pipelines) noteCount(incr *redis.IntCmd) {
	r := &f.raised
	if incr.Err() != nil {
		r.unknown++
		r.since++
		return
	}
	r.acked++
	got := int(incr.Val())
	if got <= r.last || got > r.last+1+r.since {
		f.sights.isStale("%s: INCR answers %d after %d, with %d of unknown outcome between", f.name, got, r.last, r.since)
	}
	r.last, r.since = got, 0
}

func (f *pipelines) verify(ctx context.Context, c *redis.Client, into *Account) error {
	into.sights(&f.sights)
	acked, unknown := f.pushed.counts()
	got, err := listed(ctx, c, acked+unknown, f.list)
	if err != nil {
		return err
	}
	into.add(f.pushed.judge(f.name+":list", got[0]), len(got[0]))
	value, err := c.Get(ctx, f.name+":count").Int()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("reading %s:count: %w", f.name, err)
	}
	into.counted(f.name+":count", value, f.raised.acked, f.raised.unknown)
	return nil
}

// listed reads the lists of n elements, and returns the numbers by writer.
func listed(ctx context.Context, c *redis.Client, n int, name func(n int) string) (map[int][]int, error) {
	got := make(map[int][]int)
	for from := 0; from < n; from += perKey {
		all, err := c.LRange(ctx, name(from), 0, -1).Result()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name(from), err)
		}
		for _, text := range all {
			writer, n := untag(text)
			got[writer] = append(got[writer], n)
		}
	}
	return got, nil
}

// watched is how many commands a transaction has, with what comes before it.
const watched = 6

// transactions are two clients that raise one number by WATCH and MULTI, and write down
// in the same transaction that they did.
type transactions struct {
	t      *Traffic
	i      int
	rate   float64 // of each client
	name   string
	logged [2]ledger
}

func newTransactions(t *Traffic, i int, rate float64) *transactions {
	return &transactions{t: t, i: i, rate: rate, name: fmt.Sprintf("%s:watch%d", t.cfg.Prefix, i)}
}

func (f *transactions) run(ctx context.Context) {
	var wg sync.WaitGroup
	for w := range f.logged {
		wg.Go(func() {
			c := f.t.client(2 + w)
			defer func() { _ = c.Close() }()
			f.t.paced(ctx, f.rate, func() bool { return f.step(ctx, c, w) })
		})
	}
	wg.Wait()
}

func (f *transactions) log(w, n int) string { return fmt.Sprintf("%s:log%d:%d", f.name, w, n/perKey) }

func (f *transactions) step(ctx context.Context, c *client, w int) bool {
	ctx = bare(ctx)
	n := f.logged[w].next()
	start := time.Now()
	err := c.Watch(ctx, func(tx *redis.Tx) error {
		was, err := tx.Get(ctx, f.name+":sum").Int()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, f.name+":sum", was+1, 0)
			p.RPush(ctx, f.log(w, n), tag(w, n))
			return nil
		})
		return err
	}, f.name+":sum")
	if errors.Is(err, redis.TxFailedErr) {
		return c.did(start, watched, nil) // it did not happen, as is the client's to expect
	}
	if err == nil {
		f.logged[w].ack(n)
	}
	return c.did(start, watched, err)
}

func (f *transactions) verify(ctx context.Context, c *redis.Client, into *Account) error {
	sum, err := c.Get(ctx, f.name+":sum").Int()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("reading %s:sum: %w", f.name, err)
	}
	written := 0
	for w := range f.logged {
		acked, unknown := f.logged[w].counts()
		got, err := listed(ctx, c, acked+unknown, func(n int) string { return f.log(w, n) })
		if err != nil {
			return err
		}
		written += len(got[w])
		into.add(f.logged[w].judge(fmt.Sprintf("%s:log%d", f.name, w), got[w]), len(got[w]))
	}
	// Whole or not at all: the sum and the logs were written together.
	into.counted(f.name+":sum", sum, written, 0)
	return nil
}
