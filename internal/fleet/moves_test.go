package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/slot"
)

func slotOfKey(key string) uint16 { return slot.Of(key) }

// client is a plain client of one server.
func client(t testing.TB, f *Fleet, protocol int) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{
		Dialer:   func(ctx context.Context, _, _ string) (net.Conn, error) { return f.Dial(ctx) },
		Protocol: protocol, MaxRetries: -1, DisableIdentity: true, ReadTimeout: 30 * time.Second,
	})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// TestSlotsMoveUnderLoad moves slots from one master to another, key by key, while clients
// write: none of them may see an error, and nothing may be lost or out of order.
func TestSlotsMoveUnderLoad(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	slots, rounds := 40, 4
	if testing.Short() {
		slots, rounds = 12, 2
	}
	moving := make([]uint16, slots)
	for i := range moving {
		moving[i] = uint16(i * 7)
	}
	key := func(w, i int) string {
		if i%2 == 0 {
			return fmt.Sprintf("{%s}w%d", slot.Tag(moving[i%len(moving)]), w)
		}
		return fmt.Sprintf("w%d:%d", w, i%100)
	}
	var done atomic.Int64
	const writers = 6
	counts := make([]map[string]int64, writers)
	for w := range writers {
		counts[w] = make(map[string]int64)
		rdb := client(t, f, 2+w%2)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; ctx.Err() == nil; i++ {
				var err error
				switch w % 3 {
				case 0: // a pipeline about a few keys, in order
					pipe := rdb.Pipeline()
					var got []*redis.IntCmd
					var names []string
					for k := range 10 {
						names = append(names, key(w, i+k%4))
						got = append(got, pipe.Incr(context.Background(), names[k]))
					}
					_, err = pipe.Exec(context.Background())
					for k, cmd := range got {
						if err == nil {
							if counts[w][names[k]]++; cmd.Val() != counts[w][names[k]] {
								t.Errorf("%s is %d, want %d", names[k], cmd.Val(), counts[w][names[k]])
								return
							}
						}
					}
				case 1: // transactions
					name := key(w, i)
					var cmd *redis.IntCmd
					_, err = rdb.TxPipelined(context.Background(), func(p redis.Pipeliner) error {
						p.Incr(context.Background(), name)
						cmd = p.Incr(context.Background(), name)
						return nil
					})
					if err == nil {
						if counts[w][name] += 2; cmd.Val() != counts[w][name] {
							t.Errorf("%s is %d, want %d", name, cmd.Val(), counts[w][name])
							return
						}
					}
				default: // several keys, scripts, parts
					a, b := key(w, i), key(w, i+1)
					if err = rdb.MSet(context.Background(), a, i, b, i).Err(); err == nil {
						var vals []any
						if vals, err = rdb.MGet(context.Background(), b, a).Result(); err == nil && (vals[0] != fmt.Sprint(i) || vals[1] != fmt.Sprint(i)) {
							t.Errorf("%s and %s are %v, want %d", b, a, vals, i)
							return
						}
					}
					if err == nil {
						err = redis.NewScript("return redis.call('set', KEYS[1], ARGV[1])").Run(context.Background(), rdb, []string{a}, i).Err()
					}
				}
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				done.Add(1)
			}
		}()
	}
	masters := c.Masters()
	for round := range rounds {
		before := done.Load()
		to := masters[round%3]
		if round == 0 {
			to = masters[2]
		}
		c.Move(to, moving...)
		redistest.Eventually(t, patience, func() bool { return done.Load() > before+20 }, "clients write")
	}
	cancel()
	wg.Wait()
	rdb := client(t, f, 2)
	for w := range counts {
		for name, n := range counts[w] {
			if got, err := rdb.Get(context.Background(), name).Int64(); err != nil || got != n {
				t.Errorf("%s is %d, %v, want %d", name, got, err, n)
			}
		}
	}
	t.Logf("%d rounds of commands", done.Load())
}

// TestOpenSlot stands between two nodes: keys are here and there.
func TestOpenSlot(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c, func(o *Options) { o.Patience = time.Second })
	e := dial(t, f)
	from, to := c.Masters()[0], c.Masters()[1]
	tag := "{" + slot.Tag(5) + "}"
	for i := range 20 {
		e.want(fmt.Sprintf("SET %s%d %d", tag, i, i), "+OK\r\n")
	}
	c.Open(to, 5)
	if n := c.Carry(to, 5, 10); n != 10 {
		t.Fatalf("%d keys carried", n)
	}
	var lines [][]string
	for i := range 40 { // some here, some there, some nowhere
		k := fmt.Sprint(tag, i%25)
		lines = append(lines, []string{"INCR", k}, []string{"INCR", k}, []string{"DECR", k}, []string{"DECR", k})
	}
	e.send(lines...)
	for i := range 40 {
		n := i % 25
		if n >= 20 {
			n = 0
		}
		for _, want := range []int{n + 1, n + 2, n + 1, n} {
			if got := e.read(); got != fmt.Sprintf(":%d\r\n", want) {
				t.Fatalf("key %d: %q, want %d", i%25, got, want)
			}
		}
	}
	if m := f.topo.Map(); m.Owner(5).Address != from.Addr() {
		t.Error("an ASK has changed the map")
	}
	// Keys at two nodes: not for now.
	all := "MGET"
	for i := range 20 {
		all += fmt.Sprint(" ", tag, i)
	}
	began := time.Now()
	if got := e.line(all); !strings.HasPrefix(got, "-TRYAGAIN") || time.Since(began) < 500*time.Millisecond {
		t.Errorf("MGET: %.60q after %v", got, time.Since(began))
	}
	// Once they are together it goes on.
	e = dial(t, over(t, c, func(o *Options) { o.Patience = patience }))
	answer := make(chan string, 1)
	go func() {
		got, _ := e.next()
		answer <- got
	}()
	e.send(fields(all))
	c.Finish(to, 5)
	if got := <-answer; !strings.HasPrefix(got, "*20\r\n$1\r\n0\r\n") {
		t.Errorf("MGET: %.60q", got)
	}
}

// TestMasterKilled has a master go without a word, while clients write. What was
// acknowledged and waited for is there; what fails says so; nothing is done twice.
func TestMasterKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a failover")
	}
	c := redistest.StartCluster(t, 3, 1)
	f := over(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var worked, failed, refused atomic.Int64
	const writers = 6
	type mark struct{ sure, most int64 }
	marks := make([]mark, writers)
	for w := range writers {
		wg.Add(1)
		rdb := client(t, f, 2)
		name := at(c, c.Masters()[w%3], fmt.Sprint("w", w))
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				marks[w].most++
				// WAIT goes with it on the same connection, so what is counted is on a replica.
				conn := rdb.Conn()
				err := conn.Incr(context.Background(), name).Err()
				if err == nil {
					var n int64
					if n, err = conn.Do(context.Background(), "WAIT", 1, 200).Int64(); err == nil && n > 0 {
						marks[w].sure = marks[w].most
					}
				}
				_ = conn.Close()
				switch {
				case err == nil:
					worked.Add(1)
				case strings.HasPrefix(err.Error(), "CLUSTERDOWN"), strings.HasPrefix(err.Error(), "TRYAGAIN"), strings.Contains(err.Error(), "was lost meanwhile"):
					refused.Add(1)
				case errors.Is(err, io.EOF), strings.Contains(err.Error(), "reset"), strings.Contains(err.Error(), "connecting"), strings.Contains(err.Error(), "broken pipe"):
					failed.Add(1)
				default:
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		}()
	}
	redistest.Eventually(t, patience, func() bool { return worked.Load() > 100 }, "clients write")
	c.Kill(c.Masters()[1])
	before := worked.Load()
	redistest.Eventually(t, patience, func() bool { return worked.Load() > before+30 }, "clients write again")
	cancel()
	wg.Wait()
	for w, m := range marks {
		name := at(c, c.Masters()[0], "")
		_ = name
		var got int64
		for _, s := range c.Masters() {
			for _, k := range c.On(s).Keys(context.Background(), fmt.Sprint("*w", w)).Val() {
				got, _ = c.On(s).Get(context.Background(), k).Int64()
			}
		}
		if got > m.most {
			t.Errorf("writer %d has asked for %d, and %d were done", w, m.most, got)
		}
	}
	t.Logf("%d worked, %d were refused, %d had no outcome", worked.Load(), refused.Load(), failed.Load())
	if worked.Load() == 0 {
		t.Error("nothing worked")
	}
}

// TestFailsOver has a replica take over in order: no client sees an error.
func TestFailsOver(t *testing.T) {
	c := redistest.StartCluster(t, 2, 1)
	f := over(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var worked atomic.Int64
	for w := range 4 {
		rdb := client(t, f, 2+w%2)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := int64(1); ctx.Err() == nil; i++ {
				name := fmt.Sprintf("{%s}w%d", slot.Tag(uint16(w*5000)), w)
				if got, err := rdb.Incr(context.Background(), name).Result(); err != nil || got != i {
					t.Errorf("%s: %d, %v, want %d", name, got, err, i)
					return
				}
				worked.Add(1)
			}
		}()
	}
	for round := range 3 {
		before := worked.Load()
		redistest.Eventually(t, patience, func() bool { return worked.Load() > before+100 }, "clients write")
		c.Failover(c.Replicas(c.Masters()[round%2])[0])
	}
	before := worked.Load()
	redistest.Eventually(t, patience, func() bool { return worked.Load() > before+100 }, "clients write")
	cancel()
	wg.Wait()
}
