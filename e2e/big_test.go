package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// bigLong asks for the sizes that are worth the name: make big.
func bigLong() bool { return os.Getenv("E2E_BIG") == "1" }

// element is the i-th of the big list, 100 bytes long.
func element(i int64) string { return fmt.Sprintf("%010d%s", i, strings.Repeat("x", 90)) }

// fillList pushes n elements.
func fillList(t *testing.T, c *redis.Client, key string, n int64) {
	t.Helper()
	for from := int64(0); from < n; from += 2000 {
		elems := make([]any, 0, 2000)
		for i := from; i < min(n, from+2000); i++ {
			elems = append(elems, element(i))
		}
		if err := c.RPush(t.Context(), key, elems...).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// field is a field of the big hash.
func field(i int64) string { return fmt.Sprintf("%010d", i) }

// fillHash sets n fields.
func fillHash(t *testing.T, c *redis.Client, key string, n int64) {
	t.Helper()
	for from := int64(0); from < n; from += 1000 {
		pairs := make([]any, 0, 2000)
		for i := from; i < min(n, from+1000); i++ {
			pairs = append(pairs, field(i), element(i))
		}
		if err := c.HSet(t.Context(), key, pairs...).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// changedField is which field of n the i-th change is of: another one each time, for
// the first n.
func changedField(i, n int64) int64 { return i % n * 7919 % n }

// mustHaveHash compares each field: those that were changed by the changes from n on
// and before last, and those that were not.
func mustHaveHash(t *testing.T, c *redis.Client, key string, n, last int64) {
	t.Helper()
	if have := c.HLen(t.Context(), key).Val(); have != n {
		t.Fatalf("the hash has %d fields, not %d", have, n)
	}
	changed := make(map[int64]int64)
	for i := n; i < last; i++ {
		changed[changedField(i, n)] = i
	}
	for from := int64(0); from < n; from += 5000 {
		names := make([]string, 0, 5000)
		for i := from; i < min(n, from+5000); i++ {
			names = append(names, field(i))
		}
		values, err := c.HMGet(t.Context(), key, names...).Result()
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			at := from + int64(i)
			want, ok := changed[at]
			if !ok {
				want = at
			}
			if v != element(want) {
				t.Fatalf("field %d is %.10q, not %d", at, v, want)
			}
		}
	}
}

// bigThing is a big key and a way to change it.
type bigThing struct {
	fill   func(t *testing.T, c *redis.Client, key string, n int64)
	count  func(ctx context.Context, c *redis.Client, key string) (int64, error)
	change func(ctx context.Context, c *redis.Client, key string, i, n int64) error
	must   func(t *testing.T, c *redis.Client, key string, n, last int64)
}

var (
	bigList = bigThing{
		fill: fillList,
		count: func(ctx context.Context, c *redis.Client, key string) (int64, error) {
			return c.LLen(ctx, key).Result()
		},
		change: func(ctx context.Context, c *redis.Client, key string, i, _ int64) error {
			return c.RPush(ctx, key, element(i)).Err()
		},
		must: func(t *testing.T, c *redis.Client, key string, _, last int64) {
			t.Helper()
			mustHaveList(t, c, key, last)
		},
	}
	bigHash = bigThing{
		fill: fillHash,
		count: func(ctx context.Context, c *redis.Client, key string) (int64, error) {
			return c.HLen(ctx, key).Result()
		},
		change: func(ctx context.Context, c *redis.Client, key string, i, n int64) error {
			return c.HSet(ctx, key, field(changedField(i, n)), element(i)).Err()
		},
		must: mustHaveHash,
	}
)

// pusher changes the big key through addr, at a rate: it adds the next element, or
// sets the next field.
type pusher struct {
	next  atomic.Int64 // of the element that comes next; those below are acknowledged
	first int64        // where it began
	stop  context.CancelFunc
	done  chan error
}

func startPusher(t *testing.T, addr, key string, from int64, every time.Duration, thing bigThing) *pusher {
	ctx, cancel := context.WithCancel(t.Context())
	p := &pusher{first: from, stop: cancel, done: make(chan error, 1)}
	p.next.Store(from)
	c := redis.NewClient(redistest.Options(addr, 0))
	redistest.Eventually(t, 20*time.Second, func() error { return c.Ping(t.Context()).Err() }, "the sidecar listens")
	go func() {
		defer func() { _ = c.Close() }()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				p.done <- nil
				return
			}
			if err := thing.change(context.WithoutCancel(ctx), c, key, p.next.Load(), from); err != nil {
				p.done <- err
				return
			}
			p.next.Add(1)
		}
	}()
	t.Cleanup(cancel)
	return p
}

func (p *pusher) end(t *testing.T) int64 {
	t.Helper()
	p.stop()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	return p.next.Load()
}

// mustHaveList reads the list in pieces and compares each element.
func mustHaveList(t *testing.T, c *redis.Client, key string, n int64) {
	t.Helper()
	if have := c.LLen(t.Context(), key).Val(); have != n {
		t.Fatalf("the list has %d elements, not %d", have, n)
	}
	for from := int64(0); from < n; from += 5000 {
		elems, err := c.LRange(t.Context(), key, from, from+4999).Result()
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range elems {
			if e != element(from+int64(i)) {
				t.Fatalf("element %d is %.10q", from+int64(i), e)
			}
		}
	}
}

// A list that is pushed to all the time follows by what is pushed, and does not
// hold a cutover up.
func TestCutoverWithABigList(t *testing.T) {
	n := int64(50_000)
	if bigLong() {
		n = 2_000_000
	}
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	dst := redistest.Start(t)
	fillList(t, src.Client(0), "big", n)
	s := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0"})
	s.start("")
	p := startPusher(t, s.addr, "big", n, 5*time.Millisecond, bigList)
	s.awaitReady()
	redistest.Eventually(t, time.Minute, func() bool { return dst.Client(0).LLen(t.Context(), "big").Val() >= n }, "the list is there")
	report, err := s.cutover()
	if err != nil {
		t.Fatalf("%v: %+v", err, report)
	}
	at := p.next.Load()
	redistest.Eventually(t, 20*time.Second, func() bool { return p.next.Load() > at+20 || len(p.done) > 0 }, "pushes go on")
	last := p.end(t)
	if st := must[migration.Status](t)(s.status()); st.Side != router.Target {
		t.Fatalf("clients are on the %s", st.Side)
	}
	mustHaveList(t, dst.Client(0), "big", last)
	t.Logf("%d MB in the list: held for %.1f ms, stall p99 %.1f ms, steps %v", n/10_000, report.Held, report.Stall.P99, report.Steps)
}

// A hash that is written all the time follows by the fields that are written, and
// holds neither a cutover up nor the way back.
func TestSwitchesWithABigHash(t *testing.T) {
	n := int64(30_000)
	if bigLong() {
		n = 1_000_000
	}
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	dst := redistest.Start(t)
	fillHash(t, src.Client(0), "big", n)
	s := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0"})
	s.start("")
	p := startPusher(t, s.addr, "big", n, 5*time.Millisecond, bigHash)
	more := func(writes int64) {
		t.Helper()
		at := p.next.Load()
		redistest.Eventually(t, time.Minute, func() bool { return p.next.Load() >= at+writes || len(p.done) > 0 }, "writes go on")
	}
	s.awaitReady()
	arrived := func(other *redis.Client) {
		t.Helper()
		last := p.next.Load() - 1
		redistest.Eventually(t, time.Minute, func() bool {
			return other.HGet(t.Context(), "big", field(changedField(last, n))).Val() == element(last)
		}, "write %d arrives", last)
	}
	arrived(dst.Client(0))
	// fields says that the other server follows by fields: little is sent for a hundred.
	// The first change after a switch may have the whole copied, once or twice.
	fields := func() {
		t.Helper()
		sent := func() int64 {
			st := must[migration.Status](t)(s.status())
			return st.Databases[0].Bytes
		}
		redistest.Eventually(t, 2*time.Minute, func() error {
			before := sent()
			more(100)
			if got := sent() - before; got < 100*100 || got > n*100/2 {
				return fmt.Errorf("%d bytes were sent for 100 fields of a hash of %d MB", got, n/10_000)
			}
			s.awaitReady()
			return nil
		}, "it follows by fields")
	}
	fields()
	for _, side := range []struct {
		to       router.Side
		switchTo func() (migration.Report, error)
	}{{router.Target, s.cutover}, {router.Source, s.rollback}} {
		more(20)
		report, err := side.switchTo()
		if err != nil {
			t.Fatalf("%v: %+v", err, report)
		}
		more(20)
		if st := must[migration.Status](t)(s.status()); st.Side != side.to {
			t.Fatalf("clients are on the %s", st.Side)
		}
		t.Logf("to the %s: held for %.1f ms, stall p99 %.1f ms, steps %v", side.to, report.Held, report.Stall.P99, report.Steps)
		fields()
	}
	last := p.end(t)
	if last >= 2*n {
		t.Fatalf("%d writes were made, so that fields were written twice", last-n)
	}
	mustHaveHash(t, src.Client(0), "big", n, last)
}

// TestHotGigabyteList is what an operator with a huge queue would see: a list of
// 1 GB with 100 pushes a second, and 10 000 small keys that change.
func TestHotGigabyteList(t *testing.T) { hotGigabyte(t, bigList, 10_000_000, 300_000) }

// TestHotGigabyteHash is the same with a hash of which 100 fields a second change.
func TestHotGigabyteHash(t *testing.T) { hotGigabyte(t, bigHash, 6_000_000, 200_000) }

// beside is what the small keys beside a big one must be content with. Where a machine
// is kept busy by others, one measurement of several counts.
type beside struct {
	took   time.Duration // of one measurement
	lag    time.Duration // 99 of 100 small keys are there sooner
	rounds int
}

// hotGigabyte has a key of so many elements change; without make big it is a thirtieth of
// that, and for less time.
func hotGigabyte(t *testing.T, thing bigThing, all, few int64) {
	t.Helper()
	n, wish := few, beside{took: 4 * time.Second, lag: 200 * time.Millisecond, rounds: 5}
	if bigLong() {
		n, wish = all, beside{took: time.Minute, lag: 50 * time.Millisecond, rounds: 3}
	}
	opts := []redistest.Option{
		redistest.WithConfig("slowlog-log-slower-than", "5000"),
		redistest.WithConfig("latency-monitor-threshold", "5"),
		redistest.WithConfig("notify-keyspace-events", "KEA"),
	}
	alone := ""
	if bigLong() {
		alone = aloneServer(t)
	}
	if alone != "" {
		opts = append(opts, redistest.WithBinary(alone))
	}
	src, dst := redistest.Start(t, opts...), redistest.Start(t, opts...)
	thing.fill(t, src.Client(0), "big", n)
	size, err := src.Client(0).MemoryUsage(t.Context(), "big").Result()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the key takes %d MB", size>>20)
	resetLatency(t, src, dst)
	stolen := stolenTime(t)
	// The comparison in the background asks the target for each element by name; what it
	// may take of the link is another setting.
	s := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0", extra: []string{"--verify.rate", "0"}})
	s.start("")
	p := startPusher(t, s.addr, "big", n, 10*time.Millisecond, thing)
	began := time.Now()
	redistest.Eventually(t, 5*time.Minute, func() error {
		if have, err := thing.count(t.Context(), dst.Client(0), "big"); err != nil || have < n {
			return fmt.Errorf("%d elements: %w", have, err)
		}
		return nil
	}, "the key is there")
	t.Logf("the first copy under changes took %v", time.Since(began).Round(100*time.Millisecond))
	s.awaitReady()
	oursSlow(t, "source, first copy", src, stolen, alone != "")
	oursSlow(t, "target, first copy", dst, stolen, alone != "")
	resetLatency(t, src, dst)
	stolen = stolenTime(t)

	smallKeysBeside(t, s, dst.Client(0), p, wish)
	oursSlow(t, "source", src, stolen, alone != "")
	oursSlow(t, "target", dst, stolen, alone != "")

	t.Logf("the sidecar's memory at its highest: %d MB", s.memory("VmHWM")>>20)
	report, err := s.cutover()
	if err != nil {
		t.Fatalf("%v: %+v", err, report)
	}
	t.Logf("cutover: held for %.1f ms, steps %v", report.Held, report.Steps)
	thing.must(t, dst.Client(0), "big", n, p.end(t))
}

// smallKeysBeside fails unless, in one of the rounds, small keys that change beside a big
// one arrive in time, and the target is sent less than ten times what changed.
func smallKeysBeside(t *testing.T, s *sidecar, dst *redis.Client, p *pusher, wish beside) {
	t.Helper()
	const smallKeys = 10_000
	var seen []string
	for range wish.rounds {
		var changed atomic.Int64
		input, first := netInput(t, dst), p.next.Load()
		ctx, stop := context.WithTimeout(t.Context(), wish.took)
		var wg sync.WaitGroup
		wg.Go(func() { changeSmallKeys(ctx, t, s.addr, smallKeys, &changed) })
		lags := probeLag(ctx, t, s.addr, dst)
		wg.Wait()
		stop()
		changed.Add((p.next.Load() - first) * int64(len(element(0))))
		times := float64(netInput(t, dst)-input) / float64(changed.Load())
		slices.Sort(lags)
		p99 := lags[len(lags)*99/100]
		seen = append(seen, fmt.Sprintf("%d KB changed, %.1f times as many were sent to the target; small keys' lag p50 %v, p99 %v, max %v of %d",
			changed.Load()>>10, times, lags[len(lags)/2], p99, lags[len(lags)-1], len(lags)))
		t.Log(seen[len(seen)-1])
		if times < 10 && p99 < wish.lag {
			return
		}
	}
	t.Errorf("never less than ten times and a p99 below %v:\n%s", wish.lag, strings.Join(seen, "\n"))
}

func resetLatency(t *testing.T, servers ...*redistest.Server) {
	t.Helper()
	for _, s := range servers {
		for _, args := range [][]any{{"LATENCY", "RESET"}, {"SLOWLOG", "RESET"}} {
			if err := s.Client(0).Do(t.Context(), args...).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// aloneServer makes a redis-server that no other process of the machine gets in
// the way of: what it takes for a command is what the command takes. It is "" when
// the system does not let us.
func aloneServer(t *testing.T) string {
	t.Helper()
	server, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("chrt", "--fifo", "10", "true").Run(); err != nil {
		t.Logf("servers share the processor with all others, so the times of single commands say little: %v", err)
		return ""
	}
	path := filepath.Join(t.TempDir(), "redis-server")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec chrt --fifo 10 "+server+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// theft is how long others had this machine's processors since it started, and when
// that was read.
type theft struct {
	total time.Duration
	read  time.Time
}

func stolenTime(t *testing.T) theft {
	t.Helper()
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(strings.SplitN(string(b), "\n", 2)[0])
	if len(fields) < 9 {
		return theft{read: time.Now()}
	}
	ticks, err := strconv.ParseInt(fields[8], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return theft{total: time.Duration(ticks) * 10 * time.Millisecond, read: time.Now()} // USER_HZ is 100
}

// oursSlow tells which commands took more than 5 ms, and fails when it was one of ours
// that did, and not the machine. Whom nobody in the machine keeps from the processor may
// still be kept by who lends it, where it is a virtual one: the kernel counts that time
// (proc(5), steal), and commands that take none by themselves are as slow. Then one of
// ours in a thousand may be slow as well; where a twentieth of the machine was lent to
// others, one in a hundred.
func oursSlow(t *testing.T, where string, s *redistest.Server, taken theft, alone bool) {
	t.Helper()
	latest, err := s.Client(0).Do(t.Context(), "LATENCY", "LATEST").Result()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: LATENCY LATEST %v", where, latest)
	list, err := s.Client(0).SlowLogGet(t.Context(), 128).Result()
	if err != nil {
		t.Fatal(err)
	}
	trivial := []string{"ping", "set", "pexpiretime", "get"}
	ours := make(map[string]time.Duration)
	stolen := stolenTime(t).total - taken.total
	share := stolen.Seconds() / time.Since(taken.read).Seconds() / float64(runtime.NumCPU())
	waits := stolen > 0
	t.Logf("%s: others had the machine's processors for %v, %.1f %% of the time", where, stolen, 100*share)
	percentile := "p99.9="
	if share > .05 {
		percentile = "p99="
	}
	for _, e := range list {
		var args []string
		for _, a := range e.Args[:min(len(e.Args), 6)] {
			args = append(args, fmt.Sprintf("%.40q", a))
		}
		t.Logf("%s: %v %s %v", where, e.Duration, e.ClientName, args)
		name := strings.ToLower(e.Args[0])
		switch {
		case slices.Contains(trivial, name):
			waits = true
		case strings.HasPrefix(e.ClientName, "crossfade:"):
			ours[name] = max(ours[name], e.Duration)
		}
	}
	if len(ours) == 0 {
		return
	}
	stats := s.Client(0).Info(t.Context(), "latencystats").Val()
	for name, took := range ours {
		_, line, _ := strings.Cut(stats, "latency_percentiles_usec_"+name+":")
		line, _, _ = strings.Cut(line, "\r\n")
		t.Logf("%s: %s, in microseconds: %s", where, name, line)
		_, most, _ := strings.Cut(line, percentile)
		most, _, _ = strings.Cut(most, ",")
		us, err := strconv.ParseFloat(most, 64)
		if alone && (!waits || err != nil || us > 5000) {
			t.Errorf("%s: a %s of ours took %v", where, name, took)
		}
	}
}

func netInput(t *testing.T, c *redis.Client) int64 {
	t.Helper()
	text, err := c.Info(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if v, found := strings.CutPrefix(line, "total_net_input_bytes:"); found {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	t.Fatal("INFO stats says no total_net_input_bytes")
	return 0
}

// changeSmallKeys writes to n keys, one after another, until ctx ends.
func changeSmallKeys(ctx context.Context, t *testing.T, addr string, n int, changed *atomic.Int64) {
	c := redis.NewClient(redistest.Options(addr, 0))
	defer func() { _ = c.Close() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		p := c.Pipeline()
		for range 20 {
			key, v := fmt.Sprintf("small:%d", i%n), element(int64(i))
			p.Set(t.Context(), key, v, 0)
			changed.Add(int64(len(key) + len(v)))
			i++
		}
		if _, err := p.Exec(t.Context()); err != nil {
			t.Error(err)
			return
		}
	}
}

// probeLag writes a small key through the proxy and looks at dst until it is
// there, again and again.
func probeLag(ctx context.Context, t *testing.T, addr string, dst *redis.Client) (lags []time.Duration) {
	t.Helper()
	c := redis.NewClient(redistest.Options(addr, 0))
	defer func() { _ = c.Close() }()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("probe:%d", i%100)
		if err := c.Set(t.Context(), key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		acked := time.Now()
		// Eventually would ask less and less often, and see a lag of 32 ms as one of 52.
		for dst.Get(t.Context(), key).Val() != strconv.Itoa(i) {
			if time.Since(acked) > 20*time.Second {
				t.Fatalf("%s does not arrive", key)
			}
			<-look.C
		}
		lags = append(lags, time.Since(acked))
	}
	return lags
}
