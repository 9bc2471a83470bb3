package traffic

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// stream has a producer, a consumer of a group, which acknowledges what it has read, and
// one that follows by the last id.
type stream struct {
	t        *Traffic
	i        int
	rate     float64
	name     string
	added    ledger
	consumed []int // by the group's
	followed []int
	unsure   atomic.Bool // an XACK has failed
}

func newStream(t *Traffic, i int, rate float64) *stream {
	return &stream{t: t, i: i, rate: rate, name: fmt.Sprintf("%s:stream%d", t.cfg.Prefix, i)}
}

// kept is about how many entries the stream keeps; its readers are never that far behind.
const kept = 1000

func (f *stream) run(ctx context.Context) {
	producer := f.t.client(3)
	defer func() { _ = producer.Close() }()
	for ctx.Err() == nil {
		err := producer.XGroupCreateMkStream(bare(ctx), f.name, "group", "0").Err()
		if producer.waited(1, err) || strings.HasPrefix(err.Error(), "BUSYGROUP") {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	var readers sync.WaitGroup
	var over atomic.Bool
	readers.Go(func() { f.consume(ctx, &over) })
	readers.Go(func() { f.follow(ctx, &over) })
	f.t.paced(ctx, f.rate, func() bool {
		ctx := bare(ctx)
		n := f.added.next()
		start := time.Now()
		err := producer.XAdd(ctx, &redis.XAddArgs{Stream: f.name, MaxLen: kept, Approx: true, Values: []any{"n", tag(0, n)}}).Err()
		if err == nil {
			f.added.ack(n)
		}
		return producer.did(start, 1, err)
	})
	over.Store(true)
	readers.Wait()
}

// consume reads as a member of the group until nothing comes any more. After an error it
// asks for what it was given and has not acknowledged, as a consumer has to.
func (f *stream) consume(ctx context.Context, over *atomic.Bool) {
	c := f.t.client(2 + f.i%2)
	defer func() { _ = c.Close() }()
	from := ">"
	for {
		last := over.Load()
		got, err := c.XReadGroup(bare(ctx), &redis.XReadGroupArgs{Group: "group", Consumer: "one", Streams: []string{f.name, from}, Count: 100, Block: blockFor}).Result()
		if !c.waited(1, err) {
			if last {
				return
			}
			from = "0"
			time.Sleep(5 * time.Millisecond)
			continue
		}
		var ids []string
		for _, s := range got {
			for _, e := range s.Messages {
				ids = append(ids, e.ID)
				f.consumed = append(f.consumed, numberIn(e))
			}
		}
		if len(ids) == 0 {
			if from == ">" && last {
				return
			}
			from = ">"
			continue
		}
		start := time.Now()
		err = c.XAck(bare(ctx), f.name, "group", ids...).Err()
		if !c.did(start, 1, err) {
			f.unsure.Store(true)
			from = "0"
		}
	}
}

// follow reads on from the last id until nothing comes any more.
func (f *stream) follow(ctx context.Context, over *atomic.Bool) {
	c := f.t.client(3 - f.i%2)
	defer func() { _ = c.Close() }()
	at := "0"
	for {
		last := over.Load()
		got, err := c.XRead(bare(ctx), &redis.XReadArgs{Streams: []string{f.name, at}, Count: 100, Block: blockFor}).Result()
		ok := c.waited(1, err)
		for _, s := range got {
			for _, e := range s.Messages {
				at = e.ID
				f.followed = append(f.followed, numberIn(e))
			}
		}
		switch {
		case last && (!ok || errors.Is(err, redis.Nil)):
			return
		case !ok:
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func numberIn(e redis.XMessage) int {
	text, _ := e.Values["n"].(string)
	_, n := untag(text)
	return n
}

func (f *stream) verify(ctx context.Context, c *redis.Client, into *Account) error {
	into.add(f.added.judge(f.name+", the group", f.consumed), len(f.consumed))
	into.add(f.added.judge(f.name+", the follower", f.followed), len(f.followed))
	pending, err := c.XPending(ctx, f.name, "group").Result()
	if err != nil {
		if strings.HasPrefix(err.Error(), "NOGROUP") {
			into.Lost++
			into.example("%s has lost its group", f.name)
			return nil
		}
		return fmt.Errorf("asking what is pending in %s: %w", f.name, err)
	}
	if pending.Count > 0 && !f.unsure.Load() {
		into.Lost += int(pending.Count)
		into.example("%s: %d entries are pending that were acknowledged", f.name, pending.Count)
	}
	return nil
}
