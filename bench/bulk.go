package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/bench/load"
	"github.com/crossfade/crossfade/internal/demo/sidecar"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// bulkLoad is what clients do beside the copy.
var bulkLoad = cell{op: "mixed", clients: 50, pipeline: 1, size: 100}

// beside is one measurement of clients beside a copy.
type beside struct {
	seen
	copying time.Duration // how long the copy took; 0 when there was none
	speed   float64       // keys a second that reached the target
}

// bulk measures clients beside a full copy.
type bulk struct {
	park    *park
	options options
	haproxy way
	rate    float64 // of the clients, a second
	keys    int
	period  time.Duration // how long our last copy took, and so theirs is to take
}

// besideBulk lets clients ask at half of what the proxy can do, while crossfade
// copies everything; and through haproxy, while another program copies the same for
// as long: where the processors cannot do both, a backlog grows with the time, and
// the faster program must not look better for that.
func besideBulk(ctx context.Context, o options, p *park) ([]claim, error) {
	if o.rounds <= 0 {
		o.rounds = 3
	}
	if o.seconds <= 0 {
		o.seconds = 3
	}
	b := &bulk{park: p, options: o}
	alone, err := p.proxied(ctx, shared)
	if err != nil {
		return nil, err
	}
	other, ok, err := p.beside(ctx, haproxy)
	if err == nil && !ok {
		err = errors.New("haproxy is not here: scripts/deps.sh bench")
	}
	if err != nil {
		return nil, err
	}
	b.haproxy = other
	p.banner(describe(ctx, p, []way{other}))
	p.sayf("filling %d keys\n", o.keys)
	if b.keys, err = b.fill(ctx); err != nil {
		return nil, fmt.Errorf("filling the server: %w", err)
	}
	if err := b.measureCapacity(ctx, alone); err != nil {
		return nil, err
	}
	copierName := "a bare copier"
	if o.redisShake != "" {
		copierName = "RedisShake"
	}
	p.sayf("%d clients, %s, at %.0f/s: half of what goes through crossfade\nwhen it copies nothing. %d rounds; haproxy has %s beside it.\n",
		bulkLoad.clients, bulkLoad, b.rate, o.rounds, copierName)

	rounds := make(map[string][]beside)
	ways := []struct {
		name string
		run  func(context.Context) (beside, error)
	}{
		{"crossfade, copying", b.ours},
		{"haproxy, copier", b.theirs},
		{"crossfade, idle", func(ctx context.Context) (beside, error) { return b.idle(ctx, alone) }},
		{"haproxy, idle", func(ctx context.Context) (beside, error) { return b.idle(ctx, other) }},
	}
	for round := range o.rounds {
		for i := range ways {
			w := ways[i]
			if round%2 == 1 { // nobody is always the first; but ours was before theirs once
				w = ways[len(ways)-1-i]
			}
			if err := b.settle(ctx); err != nil && ctx.Err() == nil {
				p.sayf("before %s: %v\n", w.name, err)
			}
			got, err := w.run(ctx)
			if err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return nil, fmt.Errorf("round %d, %s: %w", round+1, w.name, err)
			}
			rounds[w.name] = append(rounds[w.name], got)
		}
	}
	p.sayf("\n%-20s%10s%10s%10s%10s%10s%9s\n", "", "answered/s", "p50", "p99", "p999", "keys/s", "seconds")
	for _, w := range ways {
		of := func(f func(beside) float64) float64 { return medianOf(rounds[w.name], f) }
		p.sayf("%-20s%10.0f%10.3f%10.3f%10.3f%10.0f%9.1f\n", w.name, of(func(x beside) float64 { return x.rate }),
			of(func(x beside) float64 { return x.p50 }), of(func(x beside) float64 { return x.p99 }),
			of(func(x beside) float64 { return x.p999 }), of(func(x beside) float64 { return x.speed }),
			of(func(x beside) float64 { return x.copying.Seconds() }))
	}
	for _, w := range []string{ways[1].name, ways[3].name} { // the peer's: its own affair
		if got := answeredOf(rounds, w); got < reached*b.rate {
			p.sayf("%s: only %.0f of %.0f requests a second were answered\n", w, got, b.rate)
		}
	}
	return []claim{answeredClaim(b.rate, []string{ways[0].name, ways[2].name}, rounds), bulkClaim(rounds[ways[0].name], rounds[ways[1].name], copierName)}, nil
}

// answeredOf is how many requests a second a way answered.
func answeredOf(rounds map[string][]beside, way string) float64 {
	return medianOf(rounds[way], func(x beside) float64 { return x.rate })
}

// answeredClaim says that each of these ways answered as fast as was asked: latencies of one
// that did not are those of a queue that grows for as long as it is measured.
func answeredClaim(rate float64, ways []string, rounds map[string][]beside) claim {
	c := claim{text: fmt.Sprintf("crossfade answers all that is asked, %.0f requests a second", rate), pass: true}
	least := 1.0
	var proof []string
	for _, name := range ways {
		got := answeredOf(rounds, name)
		least = min(least, got/rate)
		if got < reached*rate {
			c.pass = false
			proof = append(proof, fmt.Sprintf("%s, only %.0f", name, got))
		}
	}
	c.proof = fmt.Sprintf("%.0f %% of it at least", 100*least)
	if !c.pass {
		c.proof = strings.Join(proof, "; ")
	}
	return c
}

// settle waits until the servers have nothing left to do for the way that was measured
// before: a copier that was ended leaves output buffers to free, and a backlog to answer.
func (b *bulk) settle(ctx context.Context) error {
	const (
		answers = 100 // in a row
		within  = 2 * time.Millisecond
	)
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	for _, s := range []*redistest.Server{b.park.source, b.park.target} {
		c := s.Client(0)
		for n := 0; n < answers; n++ {
			asked := time.Now()
			if err := c.Ping(ctx).Err(); err != nil {
				return errors.Join(fmt.Errorf("waiting for %s to have nothing to do: %w", s.Addr(), err), c.Close())
			}
			if time.Since(asked) > within {
				n = -1
			}
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// bulkClaim compares measurements of the same round.
func bulkClaim(ours, theirs []beside, copierName string) claim {
	var ratios []float64
	for i := range ours {
		ratios = append(ratios, ours[i].p99/theirs[i].p99)
	}
	p99 := func(b beside) float64 { return b.p99 }
	got := median(ratios)
	return claim{"beside a full copy, p99 no higher than through haproxy with " + copierName, got <= 1,
		fmt.Sprintf("%.2f of it; %.2f and %.2f ms", got, medianOf(ours, p99), medianOf(theirs, p99))}
}

// measureCapacity finds how fast clients can be served when nothing is copied.
func (b *bulk) measureCapacity(ctx context.Context, w way) error {
	var rates []float64
	for range 3 {
		cfg := b.clients(w.addr, 0)
		cfg.For = time.Duration(b.options.seconds * float64(time.Second))
		r, err := load.Run(ctx, cfg)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rates = append(rates, r.PerSecond())
	}
	b.rate = median(rates) / 2
	return nil
}

// clients are the load, at a rate or as fast as it goes (0).
func (b *bulk) clients(addr string, rate float64) load.Config {
	return load.Config{Addr: addr, Clients: bulkLoad.clients, Rate: rate, Next: bulkLoad.requests()}
}

// idle measures a way while nothing is copied.
func (b *bulk) idle(ctx context.Context, w way) (beside, error) {
	cfg := b.clients(w.addr, b.rate)
	cfg.For = time.Duration(b.options.seconds * float64(time.Second))
	r, err := load.Run(ctx, cfg)
	if err != nil {
		return beside{}, err
	}
	return beside{seen: seenOf(r)}, nil
}

// while puts the load on addr until copied returns, which it does at once with an
// error, or when all is copied.
func (b *bulk) while(ctx context.Context, addr string, copied func(context.Context) error) (beside, error) {
	loading, stop := context.WithCancel(ctx)
	defer stop()
	type outcome struct {
		r   *load.Result
		err error
	}
	ended := make(chan outcome, 1)
	go func() {
		r, err := load.Run(loading, b.clients(addr, b.rate))
		stop() // a load that fails ends the wait for the copy too
		ended <- outcome{r, err}
	}()
	target := b.park.target.Client(0)
	defer func() { _ = target.Close() }()
	before, err := restored(ctx, target)
	begun := time.Now()
	if err == nil {
		err = copied(loading)
	}
	took := time.Since(begun)
	stop()
	o := <-ended
	after, statErr := restored(ctx, target)
	if err := errors.Join(o.err, err, statErr); err != nil {
		return beside{}, err
	}
	return beside{seen: seenOf(o.r), copying: took, speed: float64(after-before) / took.Seconds()}, nil
}

// restored is how many keys were written to a server: by RESTORE, or by SET as short
// strings are.
func restored(ctx context.Context, c *redis.Client) (n int64, err error) {
	info, err := c.InfoMap(ctx, "commandstats").Result()
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"cmdstat_restore", "cmdstat_set"} {
		stats, ok := info["Commandstats"][name]
		if !ok {
			continue
		}
		text, _, _ := strings.Cut(strings.TrimPrefix(stats, "calls="), ",")
		calls, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("the calls in %s %q: %w", name, stats, err)
		}
		n += calls
	}
	return n, nil
}

// ours starts a sidecar, which copies from its first moment.
func (b *bulk) ours(ctx context.Context) (beside, error) {
	if err := b.park.target.Client(0).FlushAll(ctx).Err(); err != nil {
		return beside{}, err
	}
	s, err := b.park.sidecar(ctx, fmt.Sprintf("bulk%d", time.Now().UnixNano()))
	if err != nil {
		return beside{}, err
	}
	got, err := b.while(ctx, s.Addr(), func(ctx context.Context) error { return copied(ctx, s) })
	if err != nil {
		return beside{}, fmt.Errorf("%w; the sidecar's last words:\n%s", err, s.LogTail())
	}
	b.period = got.copying
	if err := ready(ctx, s, 30*time.Second); err != nil {
		return beside{}, err
	}
	if _, err := s.Admin().Complete(ctx, admin.CompleteRequest{StayOnSource: true}); err != nil {
		return beside{}, err
	}
	return got, b.park.retire(ctx, s)
}

// copied waits until a sidecar has nothing left to scan.
func copied(ctx context.Context, s *sidecar.Process) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.Done():
			return errors.New("the sidecar has ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		st, err := s.Admin().Status(ctx)
		if err != nil {
			return err
		}
		done := len(st.Databases) > 0
		for _, db := range st.Databases {
			done = done && db.Done && db.Scanned > 0
		}
		if done {
			return nil
		}
	}
}

// theirs goes through haproxy while another program copies.
func (b *bulk) theirs(ctx context.Context) (beside, error) {
	target := b.park.target.Client(0)
	defer func() { _ = target.Close() }()
	if err := target.FlushAll(ctx).Err(); err != nil {
		return beside{}, err
	}
	program, err := b.copierProgram(ctx)
	if err != nil {
		return beside{}, err
	}
	defer program.stop()
	got, err := b.while(ctx, b.haproxy.addr, func(ctx context.Context) error { return b.wholeAt(ctx, program, target) })
	if err != nil {
		return beside{}, fmt.Errorf("%w; the copier's last words:\n%s", err, program.words())
	}
	return got, nil
}

// copierProgram starts RedisShake, or ourselves as a copier with crossfade's batches.
func (b *bulk) copierProgram(ctx context.Context) (*process, error) {
	log := filepath.Join(b.park.dir, "copier.log")
	if b.options.redisShake == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding this program: %w", err)
		}
		return launch("the copier", log, self, copierVerb, "-from", b.park.source.Addr(), "-to", b.park.target.Addr(),
			"-for", b.period.String())
	}
	// RedisShake follows changes, as crossfade does; it says nothing when it lacks them.
	if err := b.park.source.Client(0).ConfigSet(ctx, "notify-keyspace-events", "AE").Err(); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.park.dir, "shake")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`[scan_reader]
cluster = false
address = %q
ksn = true
count = 1000

[redis_writer]
cluster = false
address = %q

[advanced]
dir = %q
rdb_restore_command_behavior = "rewrite"
`, b.park.source.Addr(), b.park.target.Addr(), dir)
	path := filepath.Join(b.park.dir, "shake.toml")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return launch("RedisShake", log, b.options.redisShake, path)
}

// wholeAt waits until the copier has ended in order. RedisShake never does: it has
// done its work when the target has all keys, and our copier begins anew then.
func (b *bulk) wholeAt(ctx context.Context, program *process, target *redis.Client) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-program.done:
			return program.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if b.options.redisShake == "" {
			continue
		}
		n, err := target.DBSize(ctx).Result()
		if err != nil {
			return err
		}
		if n >= int64(b.keys) {
			return nil
		}
	}
}

// fill makes the data: ten thirteenths strings of 100 bytes, and of hashes, lists and
// sorted sets of 20 elements one thirteenth each. It returns how many keys there are.
func (b *bulk) fill(ctx context.Context) (int, error) {
	client := b.park.source.Client(0)
	defer func() { _ = client.Close() }()
	if err := client.FlushAll(ctx).Err(); err != nil {
		return 0, err
	}
	each := max(1, b.options.keys/13)
	value := slices.Repeat([]byte("x"), bulkLoad.size)
	const batch = 1000
	write := func(n int, one func(redis.Pipeliner, int)) error {
		for from := 0; from < n; from += batch {
			if _, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
				for i := from; i < min(from+batch, n); i++ {
					one(p, i)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}
	elements := make([]any, 0, 40)
	scores := make([]redis.Z, 0, 20)
	list := make([]any, 0, 20)
	for i := range 20 {
		name := fmt.Sprintf("element:%d", i)
		elements = append(elements, name, i)
		scores = append(scores, redis.Z{Score: float64(i), Member: name})
		list = append(list, name)
	}
	return 13 * each, errors.Join(
		write(10*each, func(p redis.Pipeliner, i int) { p.Set(ctx, keyName(i), value, 0) }),
		write(each, func(p redis.Pipeliner, i int) { p.HSet(ctx, fmt.Sprintf("hash:%d", i), elements...) }),
		write(each, func(p redis.Pipeliner, i int) { p.RPush(ctx, fmt.Sprintf("list:%d", i), list...) }),
		write(each, func(p redis.Pipeliner, i int) { p.ZAdd(ctx, fmt.Sprintf("zset:%d", i), scores...) }))
}
