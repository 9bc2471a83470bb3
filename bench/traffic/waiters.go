package traffic

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	blockFor = time.Second     // how long a session waits in the server at a time
	lastCall = 3 * time.Second // how long messages may take that were published last
)

// queue is a list of jobs with two producers, and a worker that waits in BLPOP.
type queue struct {
	t    *Traffic
	i    int
	rate float64 // of both producers together
	name string
	jobs [2]ledger
	got  [2][]int // the worker's, by producer
}

func newQueue(t *Traffic, i int, rate float64) *queue {
	return &queue{t: t, i: i, rate: rate, name: fmt.Sprintf("%s:queue%d", t.cfg.Prefix, i)}
}

func (f *queue) run(ctx context.Context) {
	var producers, worker sync.WaitGroup
	for w := range f.jobs {
		producers.Go(func() {
			c := f.t.client(2 + w)
			defer func() { _ = c.Close() }()
			f.t.paced(ctx, f.rate/float64(len(f.jobs)), func() bool {
				ctx := bare(ctx)
				n := f.jobs[w].next()
				start := time.Now()
				err := c.RPush(ctx, f.name, tag(w, n)).Err()
				if err == nil {
					f.jobs[w].ack(n)
				}
				return c.did(start, 1, err)
			})
		})
	}
	var over atomic.Bool
	worker.Go(func() {
		c := f.t.client(2 + f.i%2)
		defer func() { _ = c.Close() }()
		f.work(ctx, c, &over)
	})
	producers.Wait()
	over.Store(true)
	worker.Wait()
}

// work takes jobs until there are none any more.
func (f *queue) work(ctx context.Context, c *client, over *atomic.Bool) {
	for {
		last := over.Load()
		job, err := c.BLPop(bare(ctx), blockFor, f.name).Result()
		ok := c.waited(1, err)
		switch {
		case err == nil:
			if w, n := untag(job[1]); w >= 0 && w < len(f.got) {
				f.got[w] = append(f.got[w], n)
			}
		case last && ok:
			return
		case !ok:
			if last {
				return // what is left is read by verify
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func (f *queue) verify(ctx context.Context, c *redis.Client, into *Account) error {
	left, err := c.LRange(ctx, f.name, 0, -1).Result()
	if err != nil {
		return fmt.Errorf("reading %s: %w", f.name, err)
	}
	for _, text := range left {
		if w, n := untag(text); w >= 0 && w < len(f.got) {
			f.got[w] = append(f.got[w], n)
		}
	}
	for w := range f.jobs {
		into.add(f.jobs[w].judge(fmt.Sprintf("%s, producer %d", f.name, w), f.got[w]), len(f.got[w]))
	}
	return nil
}

// channel has a publisher and four subscribers: by name and by pattern, RESP2 and RESP3.
type channel struct {
	t         *Traffic
	rate      float64
	name      string
	published ledger
	got       [4][]int
	heard     [4]atomic.Int64 // the newest of got
}

func newChannel(t *Traffic, i int, rate float64) *channel {
	f := &channel{t: t, rate: rate, name: fmt.Sprintf("%s:channel%d", t.cfg.Prefix, i)}
	t.opened.Add(len(f.got))
	return f
}

func (f *channel) run(ctx context.Context) {
	// Subscribers outlast the publisher until they have its last message.
	listening, stop := context.WithCancel(context.WithoutCancel(ctx))
	var subscribers sync.WaitGroup
	defer subscribers.Wait()
	defer stop()
	for i := range f.got {
		subscribers.Go(func() { f.listen(listening, i) })
	}
	f.t.opened.Wait()
	c := f.t.client(3)
	defer func() { _ = c.Close() }()
	f.t.paced(ctx, f.rate, func() bool {
		ctx := bare(ctx)
		n := f.published.next()
		start := time.Now()
		err := c.Publish(ctx, f.name, strconv.Itoa(n)).Err()
		if err == nil {
			f.published.ack(n)
		}
		return c.did(start, 1, err)
	})
	f.awaitLast()
}

// awaitLast waits until every subscriber has heard the last message, but not for ever.
func (f *channel) awaitLast() {
	acked, unknown := f.published.counts()
	give := time.NewTimer(lastCall)
	defer give.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range f.heard {
		for f.heard[i].Load() < int64(acked+unknown-1) {
			select {
			case <-tick.C:
			case <-give.C:
				return
			}
		}
	}
}

// listen takes messages until ctx ends.
func (f *channel) listen(ctx context.Context, i int) {
	c := f.t.client(2 + i%2)
	defer func() { _ = c.Close() }()
	subscribe := c.Subscribe
	if i >= 2 {
		subscribe = c.PSubscribe
	}
	s := subscribe(ctx, f.name)
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	opened := sync.OnceFunc(f.t.opened.Done)
	defer opened()
	for {
		got, err := s.Receive(ctx)
		if ctx.Err() != nil {
			return
		}
		if !c.waited(0, err) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		switch m := got.(type) {
		case *redis.Subscription:
			opened()
		case *redis.Message:
			n, err := strconv.Atoi(m.Payload)
			if err != nil {
				n = -1
			}
			f.got[i] = append(f.got[i], n)
			f.heard[i].Store(int64(n))
		}
	}
}

func (f *channel) verify(_ context.Context, _ *redis.Client, into *Account) error {
	for i := range f.got {
		v := f.published.judge(fmt.Sprintf("%s, subscriber %d", f.name, i), f.got[i])
		into.MessagesLost += v.lost
		into.MessagesDoubled += v.doubled
		into.Reordered += v.reordered
		into.Messages += len(f.got[i])
		if v.example != "" {
			into.example("%s", v.example)
		}
	}
	return nil
}
