package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/proxy"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// seen passes what a proxy sees to the mirror of the moment.
type seen struct{ w *world }

func (s seen) m() *mirror.Mirror              { return s.w.now.Load() }
func (s seen) Silent(db int, keys ...string)  { s.m().Silent(db, keys...) }
func (s seen) Flushed(db int)                 { s.m().Rescan(db, "flushed") }
func (s seen) Changed(db int, keys ...string) { s.m().Mark(db, keys...) }
func (s seen) Swapped(a, b int)               { s.m().Rescan(-1, "swapped") }
func (s seen) Functions()                     { s.m().FunctionsChanged() }
func (s seen) WantsWrites() bool              { return true }
func (s seen) Elements() *elements.Keys       { return s.m().Elements() }
func (s seen) Wrote(writes []proxy.Write) {
	list := make([]mirror.Write, len(writes))
	for i, w := range writes {
		list[i] = mirror.Write(w)
	}
	s.m().Wrote(list)
}

// throughProxy puts a proxy before the source and returns a client of it.
func (w *world) throughProxy(t *testing.T) *redis.Client {
	t.Helper()
	c := redis.NewClient(redistest.Options(w.proxyBefore(t, w.src.Addr()), 0))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// proxyBefore puts a proxy before an address of the source, and returns its own.
func (w *world) proxyBefore(t *testing.T, source string) string {
	t.Helper()
	dial := func(addr string) proxy.Upstream {
		return proxy.Upstream{Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}}
	}
	dm, err := router.NewDBMap(map[int]int{0: 0, 3: 5})
	ok(t, err)
	p, err := proxy.New(proxy.Config{
		Listen: []proxy.Listen{{Network: "tcp", Address: "127.0.0.1:0"}}, Shared: true, Loops: 1,
		Upstreams: [2]proxy.Upstream{dial(source), dial(w.dst.Addr())},
	}, router.NewGate(router.Route{Map: dm}), seen{w}, slog.New(slog.DiscardHandler))
	ok(t, err)
	ok(t, p.Listen())
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return p.Addr().String()
}

// drainAgain is drain where the feed may just have been lost.
func drainAgain(t *testing.T, m *mirror.Mirror) {
	t.Helper()
	redistest.Eventually(t, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return m.Drain(ctx)
	}, "all is brought across")
}

// input is how much was sent to the target so far.
func (w *world) input(t *testing.T) int64 {
	t.Helper()
	return infoNumber(t, w.dst.Client(0), "stats", "total_net_input_bytes")
}

// elementWorld has a hash, a set and a sorted set of 1 MB each on both sides.
func elementWorld(t *testing.T, opts ...redistest.Option) (*world, *redis.Client) {
	t.Helper()
	w := &world{
		src: redistest.Start(t, append(opts, redistest.WithConfig("notify-keyspace-events", "KEA"))...),
		dst: redistest.Start(t),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), smallIsBig)
	c := w.throughProxy(t)
	for _, kind := range elementTypes {
		grow(t, w.src.Client(0), kind, 0, 10_000)
	}
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.sameKeys(t, elementTypes...)
	return w, c
}

var elementTypes = []string{"hash", "set", "zset"}

// Elements that clients of the proxy change are carried by themselves.
func TestElementsAloneAreCarried(t *testing.T) {
	w, c := elementWorld(t)
	ctx := t.Context()
	pad := strings.Repeat("x", 90)
	field := func(i int) string { return fmt.Sprintf("%010d", i) }
	member := func(i int) string { return field(i) + pad }
	steps := map[string]func(i int) error{
		"HSET of an old field": func(i int) error { return c.HSet(ctx, "hash", field(i), "other").Err() },
		"HSET of new fields":   func(i int) error { return c.HSet(ctx, "hash", "new"+field(i), 1, "n", i).Err() },
		"HMSET":                func(i int) error { return c.HMSet(ctx, "hash", field(i), "m", field(i+1), "n").Err() },
		"HSETNX":               func(i int) error { return c.HSetNX(ctx, "hash", field(i%2*1_000_000+i), "x").Err() },
		"HDEL":                 func(i int) error { return c.HDel(ctx, "hash", field(i), "nope", field(i+200)).Err() },
		"HINCRBY and HINCRBYFLOAT": func(i int) error {
			return errors.Join(c.HIncrBy(ctx, "hash", "i", 1).Err(), c.HIncrByFloat(ctx, "hash", "f", 0.1).Err())
		},
		"SADD": func(i int) error { return c.SAdd(ctx, "set", i%10, field(i)).Err() },
		"SREM": func(i int) error { return c.SRem(ctx, "set", i%10, member(i)).Err() },
		"ZADD of new members": func(i int) error {
			return c.ZAdd(ctx, "zset", redis.Z{Score: float64(i) / 7, Member: fmt.Sprint("z", i)}).Err()
		},
		"ZADD CH": func(i int) error { return c.Do(ctx, "ZADD", "zset", "CH", i%10, member(i), i%10, member(i%10)).Err() },
		"ZADD NX": func(i int) error { return c.Do(ctx, "ZADD", "zset", "NX", i, member(i%2*1_000_000+i)).Err() },
		"ZADD INCR and ZINCRBY": func(i int) error {
			return errors.Join(c.Do(ctx, "ZADD", "zset", "INCR", 0.5, member(i)).Err(), c.ZIncrBy(ctx, "zset", 1, "z").Err())
		},
		"ZREM": func(i int) error { return c.ZRem(ctx, "zset", member(i), "nope").Err() },
		"an expiry, and one no more": func(i int) error {
			return errors.Join(c.Expire(ctx, "set", time.Hour).Err(), c.SAdd(ctx, "set", i).Err(), c.Persist(ctx, "hash").Err())
		},
		"a client with its own ways": func(i int) error {
			return c.Watch(ctx, func(tx *redis.Tx) error { return tx.HSet(ctx, "hash", "watched", i).Err() }, "other")
		},
		"the same from two pipelines": func(i int) error { return twoPipelines(ctx, c, i) },
	}
	for i, name := range slices.Sorted(maps.Keys(steps)) {
		t.Run(name, func(t *testing.T) {
			before := w.input(t)
			for n := range 50 {
				ok(t, steps[name](500*i+n))
			}
			drain(t, w.m)
			if n := w.input(t) - before; n > 300_000 {
				t.Errorf("%d bytes were sent for some elements of 1 MB", n)
			}
			w.sameKeys(t, elementTypes...)
		})
	}
}

// A source before Redis 6.2 is asked for one element after the other; one that tells
// each event once is believed as well.
func TestElementsOfOldServers(t *testing.T) {
	w, c := elementWorld(t, redistest.WithRenamed("SMISMEMBER", ""), redistest.WithRenamed("ZMSCORE", ""), redistest.WithRenamed("PEXPIRETIME", ""))
	ctx := t.Context()
	for _, flags := range []string{"KEA", "EA", "KA"} {
		ok(t, w.src.Client(0).ConfigSet(ctx, "notify-keyspace-events", flags).Err())
		gaps := w.m.Progress().Gaps
		ok(t, w.src.Client(0).ClientKillByFilter(ctx, "TYPE", "pubsub").Err())
		redistest.Eventually(t, 20*time.Second, func() bool { return w.m.Progress().Gaps > gaps }, "the gap is noticed")
		drainAgain(t, w.m)
		w.awaitState(t, mirror.Live)
		before := w.input(t)
		for i := range 20 {
			f := fmt.Sprintf("%010d", i)
			ok(t, c.HSet(ctx, "hash", f, flags).Err())
			ok(t, c.HDel(ctx, "hash", fmt.Sprintf("%010d", 50+i)).Err())
			ok(t, c.SAdd(ctx, "set", flags+f).Err())
			ok(t, c.SRem(ctx, "set", f, f+strings.Repeat("x", 90)).Err())
			ok(t, c.ZIncrBy(ctx, "zset", 0.1, f).Err())
			ok(t, c.ZRem(ctx, "zset", f+strings.Repeat("x", 90), f).Err())
			ok(t, c.Expire(ctx, "zset", time.Hour).Err())
		}
		drain(t, w.m)
		w.sameKeys(t, elementTypes...)
		if n := w.input(t) - before; n > 300_000 {
			t.Errorf("%s: %d bytes were sent for some elements of 1 MB", flags, n)
		}
	}
}

// Changes of which nobody is told are found out by the numbers.
func TestElementsThatAreNotTold(t *testing.T) {
	w, c := elementWorld(t)
	ctx, src := t.Context(), w.src.Client(0)
	ok(t, src.ConfigSet(ctx, "notify-keyspace-events", "KEg$lszxet").Err()) // no hashes
	ok(t, c.HSet(ctx, "hash", "0000000001", "untold").Err())
	redistest.Eventually(t, 20*time.Second, func() bool {
		for _, e := range w.m.Progress().Errors {
			if strings.Contains(e.Text, "fewer changes were told") {
				return true
			}
		}
		return false
	}, "it is found out")
	ok(t, src.ConfigSet(ctx, "notify-keyspace-events", "KEA").Err())
	ok(t, src.HSet(ctx, "hash", "0000000002", "past the proxy").Err())
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.sameKeys(t, elementTypes...)
}

func twoPipelines(ctx context.Context, c *redis.Client, i int) error {
	done := make(chan error, 2)
	for g := range 2 {
		go func() {
			p := c.Pipeline()
			for n := range 10 {
				p.HSet(ctx, "hash", n, g*1000+i)
				p.SAdd(ctx, "set", n)
				p.SRem(ctx, "set", n)
			}
			_, err := p.Exec(ctx)
			done <- err
		}()
	}
	return errors.Join(<-done, <-done)
}

// Whatever else happens to such a key has it copied as a whole, and after that
// elements are carried again.
func TestWhatElementsDoNotExplain(t *testing.T) {
	long(t, "random changes go the same ways")
	w, c := elementWorld(t)
	ctx, src := t.Context(), w.src.Client(0)
	for name, do := range map[string]func() error{
		"a writer past the proxy":  func() error { return src.HSet(ctx, "hash", "past", "it").Err() },
		"an old field set past it": func() error { return src.HSet(ctx, "hash", "0000000009", "set").Err() },
		"a score set past it":      func() error { return src.ZAdd(ctx, "zset", redis.Z{Score: -5, Member: w.member(t)}).Err() },
		"a field taken past it":    func() error { return src.HDel(ctx, "hash", "0000000007").Err() },
		"a transaction": func() error {
			_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.HSet(ctx, "hash", "tx", 1).Err() })
			return err
		},
		"a script":          func() error { return c.Eval(ctx, "return redis.call('hset', KEYS[1], 's', 1)", []string{"hash"}).Err() },
		"one with no key":   func() error { return c.Eval(ctx, "return redis.call('hdel', 'hash', '0000000008')", nil).Err() },
		"chance":            func() error { return c.SPop(ctx, "set").Err() },
		"a range":           func() error { return c.ZRemRangeByRank(ctx, "zset", 100, 200).Err() },
		"an unclear ZADD":   func() error { return c.ZAdd(ctx, "zset", redis.Z{Score: 5, Member: w.member(t)}).Err() },
		"another value":     func() error { return c.SUnionStore(ctx, "set", "set", "none").Err() },
		"its own successor": func() error { return errors.Join(c.Del(ctx, "hash").Err(), c.HSet(ctx, "hash", "f", 1).Err()) },
		"a renamed one": func() error {
			return errors.Join(c.Copy(ctx, "zset", "z2", 0, true).Err(), c.ZRem(ctx, "z2", w.member(t)).Err(), c.Rename(ctx, "z2", "zset").Err())
		},
		"an end of the feed": func() error {
			return errors.Join(src.ClientKillByFilter(ctx, "TYPE", "pubsub").Err(), src.SAdd(ctx, "set", "unseen").Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			hot := func() { // beside what is explained
				ok(t, c.HSet(ctx, "hash", "hot", name).Err())
				ok(t, c.SAdd(ctx, "set", name).Err())
				ok(t, c.ZAdd(ctx, "zset", redis.Z{Score: 1, Member: name}).Err())
			}
			hot()
			ok(t, do())
			hot()
			ok(t, c.HSet(ctx, "hash", "hot", "again").Err())
			drainAgain(t, w.m)
			w.awaitState(t, mirror.Live)
			w.sameKeys(t, elementTypes...)
			if src.HLen(ctx, "hash").Val() < 1000 {
				grow(t, src, "hash", 0, 10_000)
				drain(t, w.m)
			}
			before := w.input(t)
			ok(t, c.HSet(ctx, "hash", "hot", "and again").Err())
			drain(t, w.m)
			w.sameKeys(t, elementTypes...)
			if n := w.input(t) - before; n > 100_000 {
				t.Errorf("after that, %d bytes were sent for one field", n)
			}
		})
	}
}

// member is one of the sorted set.
func (w *world) member(t *testing.T) string {
	t.Helper()
	all, err := w.src.Client(0).ZRange(t.Context(), "zset", 77, 77).Result()
	ok(t, err)
	return all[0]
}

// Elements that change while the whole is copied for the first time follow by
// themselves: there is no second copy.
func TestElementsChangeDuringTheFirstCopy(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	dst := redistest.Start(t)
	link := redistest.NewLink(t, dst.Addr())
	link.SetDelayDown(50 * time.Millisecond) // until there was enough to be seen
	w := &world{src: src, dst: dst}
	w.connect(t, src.Addr(), link.Addr(), smallIsBig)
	c := w.throughProxy(t)
	ctx := t.Context()
	for _, kind := range elementTypes {
		grow(t, src.Client(0), kind, 0, 20_000)
	}
	ok(t, w.m.Follow(ctx, true))
	writes := 0
	for i := 0; w.m.Progress().State != mirror.Live; i++ {
		f := fmt.Sprintf("%010d", i*37%30_000)
		ok(t, c.HSet(ctx, "hash", f, "changed").Err())
		ok(t, c.HDel(ctx, "hash", fmt.Sprintf("%010d", i*91%20_000)).Err())
		ok(t, c.SAdd(ctx, "set", f).Err())
		ok(t, c.SRem(ctx, "set", fmt.Sprintf("%010d", (i-20)*37%30_000)).Err())
		ok(t, c.ZIncrBy(ctx, "zset", 1, f).Err())
		if writes += 5; writes == 100 {
			link.SetDelayDown(5 * time.Millisecond)
		}
	}
	drain(t, w.m)
	w.sameKeys(t, elementTypes...)
	n := w.input(t)
	t.Logf("%d commands during the copy, %d bytes sent", writes, n)
	if writes < 100 {
		t.Error("too few commands to say anything")
	}
	if n > 11<<20 { // 7 MB are in them
		t.Errorf("%d bytes were sent", n)
	}
}

// TestElementsChangeBeforeACopyGoesOn: a copy is interrupted, and goes on where it was. What has
// changed of the part that it had already is brought all the same, although nothing changes any
// more, whether it is known which elements those are or not.
func TestElementsChangeBeforeACopyGoesOn(t *testing.T) {
	for name, past := range map[string]bool{"through the proxy": false, "past it": true} {
		t.Run(name, func(t *testing.T) {
			src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
			dst := redistest.Start(t)
			link := redistest.NewLink(t, dst.Addr())
			link.SetDelayDown(30 * time.Millisecond)
			w := &world{src: src, dst: dst}
			w.connect(t, src.Addr(), link.Addr(), smallIsBig)
			c, ctx := w.throughProxy(t), t.Context()
			if past {
				c = src.Client(0)
			}
			for _, kind := range elementTypes {
				grow(t, src.Client(0), kind, 0, 20_000)
			}
			ok(t, w.m.Follow(ctx, true))
			redistest.Eventually(t, 20*time.Second, func() bool { return link.BytesUp() > 1<<20 }, "a part is copied")
			for i := range 100 {
				f := fmt.Sprintf("%010d", i)
				ok(t, c.HSet(ctx, "hash", f, "changed").Err())
				ok(t, c.SAdd(ctx, "set", f).Err())
				ok(t, c.ZIncrBy(ctx, "zset", 1, f).Err())
			}
			if p := w.m.Progress(); len(p.Big) != len(elementTypes) || p.Big[0].Percent == 0 {
				t.Fatalf("the copies are not under way: %+v", p.Big)
			}
			link.Cut()
			link.SetDelayDown(0)
			w.awaitState(t, mirror.Live)
			drain(t, w.m)
			w.sameKeys(t, elementTypes...)
		})
	}
}

// TestElementsUnderRandomChanges mixes commands on elements, through the proxy by
// several clients, with all else that can happen to keys and to what follows them.
func TestElementsUnderRandomChanges(t *testing.T) {
	w := newWorld(t, smallIsBig)
	clients := []*redis.Client{w.throughProxy(t), w.throughProxy(t)}
	for _, kind := range elementTypes {
		grow(t, w.src.Client(0), kind, 0, 3000)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ok(t, w.m.Follow(t.Context(), true))
	pick := rand.New(rand.NewPCG(seed, 0))
	for round := range uint64(16) {
		// A round is about few kinds of changes, so that elements are carried in some.
		moves, other := pick.Perm(elementMoves)[:1+pick.IntN(5)], pick.IntN(otherMoves)
		ctx, stop := context.WithTimeout(t.Context(), 150*time.Millisecond)
		done := make(chan error, 3)
		for g := range uint64(3) {
			r := rand.New(rand.NewPCG(seed, 1+round*3+g))
			go func() {
				var err error
				for ctx.Err() == nil && err == nil {
					c := clients[g%2]
					if g == 2 { // what is rare; some rounds have none of it
						if round%3 == 0 {
							break
						}
						err = changeOtherwise(t.Context(), w, c, r, other)
						select { // how often, not until when
						case <-ctx.Done():
						case <-time.After(time.Duration(r.IntN(30)) * time.Millisecond):
						}
						continue
					}
					for range 1 + r.IntN(20) {
						err = errors.Join(err, changeElement(t.Context(), c, r, moves[r.IntN(len(moves))]))
					}
				}
				done <- err
			}()
		}
		for range 3 {
			ok(t, <-done)
		}
		stop()
		drainAgain(t, w.m)
		w.sameKeys(t, elementTypes...)
		if t.Failed() {
			t.Fatalf("round %d, moves %v and %d", round, moves, other)
		}
	}
}

// elementMoves and otherMoves are how many kinds of changes there are.
const elementMoves, otherMoves = 11, 11

// changeElement runs one command that names its elements.
func changeElement(ctx context.Context, c *redis.Client, r *rand.Rand, move int) error {
	e := fmt.Sprintf("%010d", r.IntN(4000))
	long := e + strings.Repeat("x", 90)
	n := r.IntN(100)
	switch move {
	case 0:
		return c.HSet(ctx, "hash", e, n, "hot", n).Err()
	case 1:
		return c.HDel(ctx, "hash", e).Err()
	case 2:
		return c.HIncrByFloat(ctx, "hash", "float", 0.1).Err()
	case 3:
		return c.HSetNX(ctx, "hash", e, n).Err()
	case 4:
		return c.SAdd(ctx, "set", e, long).Err()
	case 5:
		return c.SRem(ctx, "set", e, long).Err()
	case 6:
		return c.ZAdd(ctx, "zset", redis.Z{Score: float64(n) / 3, Member: e}).Err()
	case 7:
		return c.Do(ctx, "ZADD", "zset", "CH", n, long, n, e).Err()
	case 8:
		return c.ZIncrBy(ctx, "zset", 0.1, long).Err()
	case 9:
		return c.ZRem(ctx, "zset", e).Err()
	}
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 20 {
			p.HSet(ctx, "hash", "piped", i)
			p.SAdd(ctx, "set", i)
			p.SRem(ctx, "set", i)
			p.ZIncrBy(ctx, "zset", 1, "piped")
		}
		return nil
	})
	return err
}

// changeOtherwise does what elements do not explain.
func changeOtherwise(ctx context.Context, w *world, c *redis.Client, r *rand.Rand, move int) error {
	src, e := w.src.Client(0), fmt.Sprintf("%010d", r.IntN(4000))
	switch move {
	case 0:
		return src.HSet(ctx, "hash", e, "past").Err()
	case 1:
		return src.SRem(ctx, "set", e+strings.Repeat("x", 90)).Err()
	case 2:
		return src.ZAdd(ctx, "zset", redis.Z{Score: 7, Member: e}).Err()
	case 3:
		return c.SPop(ctx, "set").Err()
	case 4:
		_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.HDel(ctx, "hash", e).Err() })
		return err
	case 5:
		return src.ClientKillByFilter(ctx, "TYPE", "pubsub").Err()
	case 6:
		return c.Expire(ctx, "hash", time.Hour).Err()
	case 7:
		return c.Persist(ctx, "hash").Err()
	case 8:
		return c.Eval(ctx, "return redis.call('zadd', 'zset', 3, ARGV[1])", nil, e).Err()
	case 9:
		return mirror.KillNamed(ctx, w.dst.Client(0), func(name string) bool { return strings.HasPrefix(name, "crossfade") })
	}
	return c.SUnionStore(ctx, "set", "set", "none").Err()
}
