package migration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// frozenCheck compares what neither side changes now: the number of keys of each
// database and a sample of them. It takes at most half of the stall budget. At the same
// time it makes sure of what the journal needs.
func (a *attempt) frozenCheck(ctx context.Context) error {
	if err := a.save(false, func(r *Record) { r.Phase = Verifying }); err != nil {
		return err
	}
	together, tctx := errgroup.WithContext(ctx)
	together.Go(func() error { return a.compareFrozen(tctx) })
	together.Go(func() error { return a.keepDrained(tctx) })
	together.Go(func() error { return a.markDrained(tctx) })
	together.Go(func() error { return a.watchJournal(tctx) })
	return together.Wait()
}

// compareFrozen is the comparison itself.
func (a *attempt) compareFrozen(ctx context.Context) error {
	together, tctx := errgroup.WithContext(ctx)
	together.Go(func() error { return a.compareCounts(tctx) })
	together.Go(func() error { return a.checkSample(tctx) })
	return together.Wait()
}

func (a *attempt) compareCounts(ctx context.Context) error {
	from, to := a.ids[a.from].Pool(), a.ids[a.to].Pool()
	var fromCounts, toCounts map[int]keyCount
	counting, cctx := errgroup.WithContext(ctx)
	counting.Go(func() (err error) { fromCounts, err = keyCounts(cctx, from); return err })
	counting.Go(func() (err error) { toCounts, err = keyCounts(cctx, to); return err })
	if err := counting.Wait(); err != nil {
		return err
	}
	if err := a.unmappedHold(fromCounts); err != nil {
		return err
	}
	dm := a.mapFrom(a.from)
	for _, db := range dm.Sources() {
		other, _ := dm.Target(db)
		f, t := fromCounts[db], toCounts[other]
		// A key past its expiry counts until the server gets round to removing it,
		// and RESTORE does not create it; ours (control keys) are a handful.
		slack := max(f.expires, t.expires) + 8
		if d := f.keys - t.keys; a.Migration.opt.Only == nil && (d > slack || -d > slack) { // with a filter they have no reason to be alike
			return fmt.Errorf("comparing while frozen: database %d of %s holds %d keys, database %d of %s %d", db, from, f.keys, other, to, t.keys)
		}
	}
	return nil
}

// unmappedHold refuses when a database that is not moved came to hold keys.
func (a *attempt) unmappedHold(counts map[int]keyCount) error {
	if a.from != router.Source {
		return nil
	}
	dm := a.databases()
	left := make(map[int]bool)
	for _, db := range a.record().LeaveOut {
		left[db] = true
	}
	for db, n := range counts {
		if _, mapped := dm.Target(db); mapped || left[db] || n.keys == 0 || db == 0 && n.keys <= 8 {
			continue
		}
		return fmt.Errorf("database %d of the source holds %d keys and is neither mapped nor left out", db, n.keys)
	}
	return nil
}

type keyCount struct{ keys, expires int64 }

// keyCounts reads INFO keyspace: one round trip for all databases.
func keyCounts(ctx context.Context, p *conn.Pool) (map[int]keyCount, error) {
	text, err := p.DB(0).Info(ctx, "keyspace").Result()
	if err != nil {
		return nil, fmt.Errorf("counting the keys of %s: %w", p, err)
	}
	counts := make(map[int]keyCount)
	for line := range strings.Lines(text) {
		var db int
		var c keyCount
		if n, _ := fmt.Sscanf(strings.TrimSpace(line), "db%d:keys=%d,expires=%d", &db, &c.keys, &c.expires); n == 3 {
			counts[db] = c
		}
	}
	return counts, nil
}

// handful is a part of the sample: keys of one database, which is another one on the
// other side. The big ones are but glanced at.
type handful struct {
	db, other  int
	small, big []string
}

// chooseSample chooses the keys that are compared while clients wait, before they do.
func (a *attempt) chooseSample(ctx context.Context) error {
	from := a.ids[a.from].Pool()
	counts, err := keyCounts(ctx, from)
	if err != nil {
		return err
	}
	dm := a.mapFrom(a.from)
	var dbs []int
	for _, db := range dm.Sources() {
		if counts[db].keys > 0 {
			dbs = append(dbs, db)
		}
	}
	a.sample = nil
	left := a.cfg.Cutover.CheckSample
	for i, db := range dbs {
		want := left / (len(dbs) - i)
		left -= want
		keys, err := a.randomKeys(ctx, from.DB(db), want)
		if err != nil {
			return err
		}
		parts, big, err := a.bySize(ctx, from.DB(db), keys)
		if err != nil {
			return err
		}
		other, _ := dm.Target(db)
		for _, some := range parts {
			a.sample = append(a.sample, handful{db: db, other: other, small: some})
		}
		for _, one := range big {
			a.sample = append(a.sample, handful{db: db, other: other, big: []string{one}})
		}
	}
	// No database is to be the one for which there was no time.
	rand.Shuffle(len(a.sample), func(i, j int) { a.sample[i], a.sample[j] = a.sample[j], a.sample[i] })
	return nil
}

// checkSample compares the sample, as much of it as sampleTime is enough for, and the
// first part of it in any case: clients wait meanwhile.
func (a *attempt) checkSample(ctx context.Context) error {
	until := time.Now().Add(min(a.opt.MaxStall/4, sampleTime))
	var next, checked atomic.Int64
	together, tctx := errgroup.WithContext(ctx)
	for range sampleHands {
		together.Go(func() error {
			comparer := value.Comparer{NoFieldExpiries: a.dropsFieldExpiries(), Small: true} // chooseSample has asked
			for {
				i := int(next.Add(1)) - 1
				if i >= len(a.sample) || i > 0 && time.Now().After(until) {
					return nil
				}
				if err := a.compareSome(tctx, &comparer, a.sample[i]); err != nil {
					return err
				}
				checked.Add(int64(len(a.sample[i].small) + len(a.sample[i].big)))
			}
		})
	}
	err := together.Wait()
	a.report.Checked = int(checked.Load())
	return err
}

// compareSome compares a part of the sample.
func (a *attempt) compareSome(ctx context.Context, comparer *value.Comparer, some handful) error {
	from, to := a.ids[a.from].Pool().DB(some.db), a.ids[a.to].Pool().DB(some.other)
	diffs, err := comparer.Compare(ctx, from, to, some.small)
	for i := 0; err == nil && i < len(some.big); i++ {
		var d value.Diff
		d, err = value.Glance(ctx, from, to, some.big[i])
		diffs = append(diffs, d)
	}
	if err != nil {
		return fmt.Errorf("comparing while frozen: %w", err)
	}
	keys := slices.Concat(some.small, some.big)
	for i, d := range diffs {
		if !d.Equal() {
			return fmt.Errorf("comparing while frozen: key %q of database %d differs: %s", keys[i], some.db, d.Words)
		}
	}
	return nil
}

// chosen returns those of keys that are copied.
func (a *attempt) chosen(ctx context.Context, c *redis.Client, keys []string) ([]string, error) {
	only := a.Migration.opt.Only
	keys = slices.DeleteFunc(keys, func(k string) bool { return !only.Name(k) })
	if !only.Typed() || len(keys) == 0 {
		return keys, nil
	}
	pipe := c.Pipeline()
	kinds := make(map[string]*redis.StatusCmd, len(keys))
	for _, k := range keys {
		kinds[k] = pipe.Type(ctx, k)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("asking for the types of keys to compare: %w", err)
	}
	return slices.DeleteFunc(keys, func(k string) bool { return !only.Type(kinds[k].Val()) }), nil
}

// bigSample is the size in the server's memory from which a key of the sample is
// but glanced at: to read 100 MB of each side takes longer than clients may wait.
const bigSample = 1 << 20

// bySize tells the keys that are compared in full, in parts that are read in no time, from
// the big ones.
func (a *attempt) bySize(ctx context.Context, c *redis.Client, keys []string) (parts [][]string, big []string, err error) {
	sizes, err := a.scale.Weigh(ctx, c, keys)
	if err != nil {
		return nil, nil, err
	}
	var bytes int64
	for i, k := range keys {
		if sizes[i] > bigSample {
			big = append(big, k)
			continue
		}
		if n := len(parts); n == 0 || len(parts[n-1]) == sampleChunk || bytes+sizes[i] > sampleBytes {
			parts, bytes = append(parts, nil), 0
		}
		last := &parts[len(parts)-1]
		*last, bytes = append(*last, k), bytes+sizes[i]
	}
	return parts, big, nil
}

// randomKeys returns up to n keys that are copied, each once.
func (a *attempt) randomKeys(ctx context.Context, c *redis.Client, n int) ([]string, error) {
	seen := make(map[string]bool)
	var keys []string
	for n > 0 {
		pipe := c.Pipeline()
		found := make([]*redis.StringCmd, min(n, sampleChoice))
		for i := range found {
			found[i] = pipe.RandomKey(ctx)
		}
		n -= len(found)
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("choosing keys to compare: %w", err)
		}
		for _, f := range found {
			k := f.Val()
			if k != "" && !seen[k] && !strings.HasPrefix(k, "crossfade:") {
				seen[k] = true
				keys = append(keys, k)
			}
		}
	}
	return a.chosen(ctx, c, keys)
}
