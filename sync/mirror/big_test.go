package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// smallIsBig has keys of some KB copied as big ones. The heart beats slowly: on a
// busy machine a late beat is a gap, after which all is copied again.
func smallIsBig(c *mirror.Config) { c.BigKey, c.Heartbeat = 16<<10, time.Second }

// plain reads a key by the plainest commands, in an order that is the value's.
func plain(t *testing.T, c redis.UniversalClient, key string) []string {
	t.Helper()
	ctx := t.Context()
	do := func(args ...any) []string {
		v, err := c.Do(ctx, args...).Result()
		ok(t, err)
		return flat(nil, v)
	}
	kind, err := c.Type(ctx, key).Result()
	ok(t, err)
	out := []string{kind, strconv.FormatBool(c.PTTL(ctx, key).Val() > 0)}
	switch kind {
	case "string":
		out = append(out, do("GET", key)...)
	case "list":
		out = append(out, do("LRANGE", key, 0, -1)...)
	case "set":
		out = append(out, slices.Sorted(slices.Values(do("SMEMBERS", key)))...)
	case "zset":
		out = append(out, do("ZRANGE", key, 0, -1, "WITHSCORES")...)
	case "hash":
		all, err := c.HGetAll(ctx, key).Result()
		ok(t, err)
		var pairs []string
		for f, v := range all {
			pairs = append(pairs, f+"\x00"+v)
		}
		out = append(out, slices.Sorted(slices.Values(pairs))...)
	case "stream":
		out = append(out, do("XRANGE", key, "-", "+")...)
		v, err := c.Do(ctx, "XINFO", "STREAM", key).Result()
		ok(t, err)
		about := v.(map[any]any)
		for _, name := range []string{"length", "last-generated-id", "entries-added", "max-deleted-entry-id", "groups"} {
			out = append(out, name, fmt.Sprint(about[name]))
		}
		groups, err := c.XInfoGroups(ctx, key).Result()
		ok(t, err)
		for _, g := range groups {
			out = append(out, fmt.Sprintf("%+v", g))
			ps, err := c.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: g.Name, Start: "-", End: "+", Count: 100_000}).Result()
			ok(t, err)
			for _, p := range ps {
				out = append(out, p.ID, p.Consumer, fmt.Sprint(p.RetryCount))
			}
		}
	}
	return out
}

func flat(out []string, v any) []string {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			out = flat(out, e)
		}
	case map[any]any:
		for k, e := range v {
			out = flat(flat(out, k), e)
		}
	default:
		out = append(out, fmt.Sprint(v))
	}
	return out
}

// sameKeys compares keys of database 0 by plain commands.
func (w *world) sameKeys(t *testing.T, keys ...string) {
	t.Helper()
	for _, k := range keys {
		a, b := plain(t, w.src.Client(0), k), plain(t, w.dst.Client(0), k)
		if slices.Equal(a, b) {
			continue
		}
		i := 0
		for i < min(len(a), len(b)) && a[i] == b[i] {
			i++
		}
		t.Errorf("%s: %d and %d things, which differ from number %d on: %.300q and %.300q", k, len(a), len(b), i, a[i:min(i+3, len(a))], b[i:min(i+3, len(b))])
	}
	if n := len(w.dst.Client(0).Keys(t.Context(), mirror.KeyPrefix+"tmp:*").Val()); n > 0 {
		t.Errorf("%d temporary keys are left", n)
	}
	if t.Failed() {
		t.FailNow()
	}
}

var bigTypes = []string{"string", "list", "set", "zset", "hash", "stream"}

// grow adds n elements, of some 100 bytes, to the key that is called as its type.
func grow(t *testing.T, c *redis.Client, kind string, from, n int) {
	t.Helper()
	ctx := t.Context()
	pad := strings.Repeat("x", 90)
	p := c.Pipeline()
	for i := from; i < from+n; i++ {
		e := fmt.Sprintf("%010d%s", i, pad)
		switch kind {
		case "string":
			p.Append(ctx, kind, e)
		case "list":
			p.RPush(ctx, kind, e)
		case "set":
			p.SAdd(ctx, kind, e)
		case "zset":
			p.ZAdd(ctx, kind, redis.Z{Score: float64(i) / 3, Member: e})
		case "hash":
			p.HSet(ctx, kind, e[:10], e)
		case "stream":
			p.XAdd(ctx, &redis.XAddArgs{Stream: kind, Values: []string{"f", e}})
		}
		if p.Len() >= 1000 {
			_, err := p.Exec(ctx)
			ok(t, err)
		}
	}
	_, err := p.Exec(ctx)
	ok(t, err)
}

func TestBigKeysOfEveryType(t *testing.T) {
	t.Run("new", func(t *testing.T) { bigKeysOfEveryType(t) })
	t.Run("old", func(t *testing.T) { // servers that lack what came after Redis 3
		bigKeysOfEveryType(t, redistest.WithRenamed("MEMORY", ""), redistest.WithRenamed("PEXPIRETIME", ""), redistest.WithRenamed("UNLINK", ""))
	})
}

func bigKeysOfEveryType(t *testing.T, opts ...redistest.Option) {
	t.Helper()
	w := &world{
		src: redistest.Start(t, append(opts, redistest.WithConfig("notify-keyspace-events", "KEA"))...),
		dst: redistest.Start(t, opts...),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), smallIsBig)
	ctx, c := t.Context(), w.src.Client(0)
	for _, kind := range bigTypes {
		grow(t, c, kind, 0, 10_000)
		ok(t, w.dst.Client(0).RPush(ctx, kind, "another value").Err())
	}
	ok(t, c.SetRange(ctx, "huge", 9<<20, "end").Err()) // one that is sent as a stream
	ok(t, c.Expire(ctx, "zset", time.Hour).Err())
	ok(t, c.XGroupCreate(ctx, "stream", "workers", "0").Err())
	ok(t, c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "workers", Consumer: "one", Streams: []string{"stream", ">"}, Count: 500}).Err())
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	keys := append([]string{"huge"}, bigTypes...)
	w.sameKeys(t, keys...)
	if len(opts) > 0 {
		return
	}

	// Each changes in the ways that its type has.
	for _, kind := range bigTypes {
		grow(t, c, kind, 20_000, 300)
	}
	ok(t, c.Persist(ctx, "zset").Err())
	ok(t, c.Expire(ctx, "list", time.Hour).Err())
	ok(t, c.Append(ctx, "huge", "more").Err())
	ok(t, c.XTrimMaxLen(ctx, "stream", 9000).Err())
	drain(t, w.m)
	w.sameKeys(t, keys...)
	freed := infoNumber(t, w.dst.Client(0), "memory", "lazyfreed_objects")
	ok(t, c.LSet(ctx, "list", 17, "other").Err())
	drain(t, w.m)
	w.sameKeys(t, "list")
	if n := infoNumber(t, w.dst.Client(0), "memory", "lazyfreed_objects"); n == freed {
		t.Error("the list that was replaced was freed while all clients waited")
	}
	ok(t, c.SetRange(ctx, "string", 5, "other").Err())
	ok(t, c.HDel(ctx, "hash", "0000000005").Err())
	ok(t, c.Del(ctx, "set").Err())
	ok(t, c.Rename(ctx, "zset", "set").Err())
	ok(t, c.Set(ctx, "huge", "small", 0).Err())
	ok(t, c.XDel(ctx, "stream", c.XRange(ctx, "stream", "-", "+").Val()[5000].ID).Err())
	drain(t, w.m)
	w.sameKeys(t, keys...)
}

// TestBigKeysWithoutRename: a target that lets nobody RENAME gets them in one piece, and keeps
// nothing of what was tried before.
func TestBigKeysWithoutRename(t *testing.T) {
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
		dst: redistest.Start(t, redistest.WithRenamed("RENAME", "")),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), smallIsBig)
	for _, kind := range bigTypes {
		grow(t, w.src.Client(0), kind, 0, 5000)
	}
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.sameKeys(t, bigTypes...)
}

// What is only added to, or only taken from at one end, is not copied again.
func TestAdditionsAloneAreCarried(t *testing.T) {
	long(t, "random changes go the same ways")
	w := newWorld(t, smallIsBig)
	ctx, c := t.Context(), w.src.Client(0)
	for _, kind := range []string{"string", "list", "stream"} {
		grow(t, c, kind, 0, 20_000)
	}
	ok(t, c.XGroupCreate(ctx, "stream", "workers", "0").Err())
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	input := func() int64 { return infoNumber(t, w.dst.Client(0), "stats", "total_net_input_bytes") }
	steps := map[string]func(i int) error{
		"pushes at the tail": func(i int) error { return c.RPush(ctx, "list", i, "and", "two").Err() },
		"pushes at the head": func(i int) error { return c.LPush(ctx, "list", i, "and", "two").Err() },
		"pops at the head":   func(int) error { return c.LPopCount(ctx, "list", 3).Err() },
		"pops at the tail":   func(int) error { return c.RPop(ctx, "list").Err() },
		"appended bytes":     func(i int) error { return c.Append(ctx, "string", fmt.Sprint(i)).Err() },
		"entries":            func(i int) error { return c.XAdd(ctx, &redis.XAddArgs{Stream: "stream", Values: []any{"i", i}}).Err() },
		"a trimmed stream":   func(i int) error { return c.XTrimMaxLen(ctx, "stream", int64(20_000-9*i)).Err() },
		"group's position": func(i int) error {
			return c.XGroupSetID(ctx, "stream", "workers", fmt.Sprintf("%d-1", i+1)).Err()
		},
	}
	silently := func(err error) error {
		w.m.Silent(0, "stream") // as the proxy does, for what has no event
		return err
	}
	steps["deliveries"] = func(int) error {
		return silently(c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "workers", Consumer: "one", Streams: []string{"stream", ">"}, Count: 1}).Err())
	}
	steps["acknowledgements"] = func(int) error {
		ps, err := c.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: "stream", Group: "workers", Start: "-", End: "+", Count: 1}).Result()
		if err != nil || len(ps) == 0 {
			return err
		}
		return silently(c.XAck(ctx, "stream", "workers", ps[0].ID).Err())
	}
	names := slices.Sorted(maps.Keys(steps))
	for i, name := range append(names, names...) { // each after each other, and with nothing new about it
		step := steps[name]
		t.Run(name, func(t *testing.T) {
			before := input()
			for n := range 100 - 95*(i/len(names)) {
				ok(t, step(n))
			}
			drain(t, w.m)
			if n := input() - before; n > 400_000 {
				t.Errorf("%d bytes were sent for some additions to 2 MB", n)
			}
			w.sameKeys(t, "list", "string", "stream")
		})
	}
}

func infoNumber(t *testing.T, c *redis.Client, section, name string) int64 {
	t.Helper()
	text, err := c.Info(t.Context(), section).Result()
	ok(t, err)
	for line := range strings.Lines(text) {
		if v, found := strings.CutPrefix(line, name+":"); found {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			ok(t, err)
			return n
		}
	}
	t.Fatalf("INFO %s has no %s", section, name)
	return 0
}

// Whatever happens to big keys while they are copied, a drain ends with both
// sides equal. BIG_SEED repeats the choices of a run; what comes between them is the
// machine's.
func TestBigKeysUnderRandomChanges(t *testing.T) {
	w := newWorld(t, smallIsBig)
	c := w.src.Client(0)
	for _, kind := range bigTypes {
		grow(t, c, kind, 0, 5000)
	}
	ok(t, c.XGroupCreate(t.Context(), "stream", "g", "0").Err())
	seed, err := strconv.ParseUint(os.Getenv("BIG_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("BIG_SEED=%d", seed)
	ok(t, w.m.Follow(t.Context(), true))
	pick := rand.New(rand.NewPCG(seed, 0))
	for round := range uint64(some(12)) {
		// A round is about few kinds of changes, so that additions are carried in some.
		chosen := make(map[int]bool)
		for range 1 + pick.IntN(6) {
			chosen[pick.IntN(manyMoves)] = true
		}
		moves := slices.Sorted(maps.Keys(chosen))
		ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
		done := make(chan error, 2)
		for g := range uint64(2) {
			go func() {
				r := rand.New(rand.NewPCG(seed, 1+round*2+g))
				var err error
				for ctx.Err() == nil && err == nil {
					move := moves[r.IntN(len(moves))]
					for range 1 + r.IntN(20) {
						err = errors.Join(err, changeSomething(t.Context(), w, c, r, move))
					}
				}
				done <- err
			}()
		}
		<-ctx.Done()
		ok(t, <-done)
		ok(t, <-done)
		stop()
		drain(t, w.m)
		t.Logf("round %d, moves %v", round, moves)
		w.sameKeys(t, bigTypes...)
	}
}

// manyMoves is how many kinds of changes changeSomething knows.
const manyMoves = 19

// changeSomething runs one command on a big key. A round of removals alone can
// empty the key: what the server answers then is no fault.
func changeSomething(ctx context.Context, w *world, c *redis.Client, r *rand.Rand, move int) error {
	n := r.IntN(100_000)
	e := fmt.Sprintf("%010d%s", n, strings.Repeat("y", n%200))
	moves := []func() error{
		func() error { return c.RPush(ctx, "list", e, e).Err() },
		func() error { return c.XAdd(ctx, &redis.XAddArgs{Stream: "stream", Values: []string{"f", e}}).Err() },
		func() error { return c.Append(ctx, "string", e).Err() },
		func() error { return c.LPush(ctx, "list", e).Err() },
		func() error { return c.XTrimMaxLen(ctx, "stream", int64(4000+n%2000)).Err() },
		func() error { return c.HSet(ctx, "hash", e[:10], e).Err() },
		func() error { return c.SAdd(ctx, "set", e).Err() },
		func() error { return c.ZAdd(ctx, "zset", redis.Z{Score: float64(n) / 7, Member: e[:10]}).Err() },
		func() error { return c.LPopCount(ctx, "list", n%5+1).Err() },
		func() error { return c.RPop(ctx, "list").Err() },
		func() error {
			err := c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: e[:2], Streams: []string{"stream", ">"}, Count: 5, Block: -1}).Err()
			if err == nil || errors.Is(err, redis.Nil) {
				w.m.Silent(0, "stream")
			}
			return err
		},
		func() error {
			es, err := c.XRevRangeN(ctx, "stream", "+", "-", 50).Result()
			if err != nil || len(es) == 0 {
				return err
			}
			return c.XDel(ctx, "stream", es[n%len(es)].ID).Err()
		},
		func() error { return c.LTrim(ctx, "list", 3, -4).Err() },
		func() error { return c.LSet(ctx, "list", int64(n%1000), e).Err() },
		func() error { return c.SetRange(ctx, "string", int64(n), "zz").Err() },
		func() error { return c.HDel(ctx, "hash", e[:10]).Err() },
		func() error { return c.SPop(ctx, "set").Err() },
		func() error { return c.ZPopMin(ctx, "zset").Err() },
		func() error { return c.Expire(ctx, "hash", time.Hour).Err() },
	}
	err := moves[move%len(moves)]()
	if errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "no such key") || redis.HasErrorPrefix(err, "index out of range") {
		return nil
	}
	return err
}

// A copy that was interrupted does not begin anew.
func TestInterruptedBigCopyGoesOn(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	dst := redistest.Start(t)
	link := redistest.NewLink(t, dst.Addr())
	w := &world{src: src, dst: dst}
	w.connect(t, src.Addr(), link.Addr(), smallIsBig)
	for _, kind := range []string{"list", "set", "zset", "hash", "stream"} {
		grow(t, src.Client(0), kind, 0, 30_000)
	}
	var cuts atomic.Int32
	link.CutAfterUp(1 << 20)
	ok(t, w.m.Follow(t.Context(), true))
	for cuts.Load() < 8 {
		n := link.BytesUp()
		redistest.Eventually(t, 20*time.Second, func() bool { return link.BytesUp() > n+(1<<20) || w.m.Progress().State == mirror.Live }, "it goes on")
		if w.m.Progress().State == mirror.Live && w.m.Progress().Dirty == 0 {
			break
		}
		link.CutAfterUp(1 << 20)
		cuts.Add(1)
	}
	link.CutAfterUp(-1)
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.sameKeys(t, "list", "set", "zset", "hash", "stream")
	if cuts.Load() < 3 {
		t.Errorf("it was interrupted %d times only", cuts.Load())
	}
	if n := infoNumber(t, dst.Client(0), "stats", "total_net_input_bytes"); n > 45<<20 {
		t.Errorf("%d bytes were sent for 5 keys of 3 MB", n)
	}
}

// A key that is never quiet has its share of the link and not more, is told of
// in the progress, and is settled at once by a drain when its writer pauses.
func TestHotBigHashHasItsShare(t *testing.T) {
	long(t, "it measures shares")
	w := newWorld(t, smallIsBig)
	ctx, c := t.Context(), w.src.Client(0)
	grow(t, c, "hash", 0, 20_000)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	first := w.m.Progress().Databases[0].Bytes
	began, writing := time.Now(), true
	var copies int64
	for writing {
		ok(t, c.HSet(ctx, "hash", "hot", time.Now().UnixNano()).Err())
		p := w.m.Progress()
		for _, b := range p.Big {
			if b.Key != "hash" || b.Database != 0 || b.Type != "hash" || b.Size < 2_000_000 || b.Bytes < 2_000_000 {
				t.Fatalf("progress tells %+v", b)
			}
			if b.Wait > 0 {
				copies = p.Databases[0].Bytes/first - 1
				writing = copies < 1 && time.Since(began) < 20*time.Second
			}
		}
	}
	if copies < 1 {
		t.Error("a big key that is never quiet was not copied again")
	}
	drain(t, w.m)
	w.sameKeys(t, "hash")
}

// While a key is copied as a whole for the first time, the progress says about how long
// that goes on, so that nobody has clients wait for it.
func TestFirstCopyHasACost(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	dst := redistest.Start(t)
	link := redistest.NewLink(t, dst.Addr())
	w := &world{src: src, dst: dst}
	w.connect(t, src.Addr(), link.Addr(), smallIsBig)
	grow(t, src.Client(0), "hash", 0, 30_000)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	link.Stall(true)
	ok(t, src.Client(0).Copy(t.Context(), "hash", "more", 0, false).Err())
	redistest.Eventually(t, 20*time.Second, func() error {
		for _, b := range w.m.Progress().Big {
			if b.First && b.Size > 2_000_000 && b.Cost > 50*time.Millisecond {
				return nil
			}
		}
		return fmt.Errorf("%+v", w.m.Progress().Big)
	}, "the cost is told")
	link.Stall(false)
	drain(t, w.m)
	w.sameKeys(t, "hash", "more")
	for _, b := range w.m.Progress().Big {
		t.Errorf("after the copy the progress tells %+v", b)
	}
}

// TestBigKeysWhereRestoreIsRefused has big keys among many small ones that are all
// copied by type: they take the way of big keys all the same, so that what is added to
// one of them is all that is sent.
func TestBigKeysWhereRestoreIsRefused(t *testing.T) {
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
		dst: redistest.Start(t, redistest.WithRenamed("RESTORE", "")),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), smallIsBig)
	ctx, c := t.Context(), w.src.Client(0)
	p := c.Pipeline()
	for i := range 3000 {
		p.Set(ctx, fmt.Sprint("small:", i), i, 0)
	}
	_, err := p.Exec(ctx)
	ok(t, err)
	for _, kind := range bigTypes {
		grow(t, c, kind, 0, 10_000)
	}
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.sameKeys(t, append([]string{"small:17"}, bigTypes...)...)

	before := infoNumber(t, w.dst.Client(0), "stats", "total_net_input_bytes")
	ok(t, c.RPush(ctx, "list", "more").Err())
	drain(t, w.m)
	w.sameKeys(t, "list")
	if n := infoNumber(t, w.dst.Client(0), "stats", "total_net_input_bytes") - before; n > 200_000 {
		t.Errorf("%d bytes were sent for one element", n)
	}
}
