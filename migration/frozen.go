package migration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
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
// database, a sample of them, and the function libraries. It takes at most half of the stall budget. At the same
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
	together.Go(func() error { return a.sameMaster(tctx) })
	together.Go(func() error { return a.replicasFenced(tctx) })
	return together.Wait()
}

// compareFrozen is the comparison itself.
func (a *attempt) compareFrozen(ctx context.Context) error {
	together, tctx := errgroup.WithContext(ctx)
	together.Go(func() error { return a.compareCounts(tctx) })
	together.Go(func() error { return a.checkSample(tctx) })
	together.Go(func() error { return a.forward.CompareFunctions(tctx) })
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
	if a.Migration.opt.Only != nil { // with a filter they have no reason to be alike
		return nil
	}
	sourceCounts, targetCounts := fromCounts, toCounts
	if a.from == router.Target {
		sourceCounts, targetCounts = toCounts, fromCounts
	}
	ours := int64(8) // control keys are a handful, and on a cluster there are the marks
	if sw := a.record().Switch; sw != nil {
		ours += a.oldMarks + int64(len(sw.Marks))
	}
	dm := a.databases()
	for _, db := range dm.Targets() {
		var s keyCount
		for _, source := range dm.SourcesAt(db) {
			s.keys += sourceCounts[source].keys
			s.expires += sourceCounts[source].expires
			s.hashes += sourceCounts[source].hashes
		}
		t := targetCounts[db]
		slack := s.slack(t) + ours
		if dm.Shared(db) { // others may have keys there, so it may hold any number more
			t.keys = min(t.keys, s.keys)
			slack = s.slack(keyCount{}) + ours
		}
		if d := s.keys - t.keys; d > slack || -d > slack {
			return fmt.Errorf("comparing while frozen: database %s of %s holds %d keys, database %d of %s %d",
				numbers(dm.SourcesAt(db)), a.ids[router.Source].Pool(), s.keys, db, a.ids[router.Target].Pool(), targetCounts[db].keys)
		}
	}
	return nil
}

func numbers(list []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(list), "[]"), " ", ", ")
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

// keyCount is how many keys a database has, how many of them expire, and how many hashes have
// fields that do. A hash goes with its last field.
type keyCount struct{ keys, expires, hashes int64 }

// slack is by how many keys databases may differ that are equal. A key past its expiry counts
// until the server gets round to removing it, and RESTORE does not create it. So does a hash
// past that of its last field, but as one with such fields as well: where both servers count
// those, the side that is behind with removing has as many more of them. A server may count
// some whose fields expire no more, so a tenth is allowed besides.
func (s keyCount) slack(t keyCount) int64 {
	hashes := max(s.hashes, t.hashes)
	if s.hashes > 0 && t.hashes > 0 {
		hashes = min(hashes, max(s.hashes-t.hashes, t.hashes-s.hashes)+hashes/10)
	}
	return max(min(s.expires+hashes, s.keys), min(t.expires+hashes, t.keys))
}

// keyCounts reads INFO keyspace: one round trip for all databases.
func keyCounts(ctx context.Context, p *conn.Pool) (map[int]keyCount, error) {
	text, err := p.DB(0).Info(ctx, "keyspace").Result()
	if err != nil {
		return nil, fmt.Errorf("counting the keys of %s: %w", p, err)
	}
	return countsIn(text), nil
}

// countsIn reads INFO keyspace, which is lines like "db0:keys=7,expires=1,avg_ttl=0,subexpiry=2".
func countsIn(text string) map[int]keyCount {
	counts := make(map[int]keyCount)
	for line := range strings.Lines(text) {
		var db int
		var c keyCount
		line = strings.TrimSpace(line)
		if n, _ := fmt.Sscanf(line, "db%d:keys=%d,expires=%d", &db, &c.keys, &c.expires); n != 3 {
			continue
		}
		for field := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(field, "=")
			if name == "subexpiry" || name == "keys_with_volatile_items" { // Redis from 7.4 on, Valkey from 9 on
				c.hashes, _ = strconv.ParseInt(value, 10, 64)
			}
		}
		counts[db] = c
	}
	return counts
}

// handful is a part of the sample: keys of one of the source's databases. The big ones
// are but glanced at.
type handful struct {
	db         int
	small, big []string
}

// chooseSample chooses the keys that are compared while clients wait, before they do.
func (a *attempt) chooseSample(ctx context.Context) error {
	a.sample = nil
	n := a.cfg.Cutover.CheckSample
	if a.from == router.Target && a.databases().Prefixed() {
		// Where others have most of the keys, few of those that are found at random are
		// ours; on the other side all are.
		if err := a.sampleOf(ctx, router.Source, n/2); err != nil {
			return err
		}
		n -= n / 2
	}
	if err := a.sampleOf(ctx, a.from, n); err != nil {
		return err
	}
	// No database is to be the one for which there was no time.
	rand.Shuffle(len(a.sample), func(i, j int) { a.sample[i], a.sample[j] = a.sample[j], a.sample[i] })
	return nil
}

// sampleOf adds up to n keys to the sample that one side has.
func (a *attempt) sampleOf(ctx context.Context, side router.Side, n int) error {
	pool, dm := a.ids[side].Pool(), a.databases()
	counts, err := keyCounts(ctx, pool)
	if err != nil {
		return err
	}
	var dbs []int
	for _, db := range dm.On(side) {
		if counts[db].keys > 0 {
			dbs = append(dbs, db)
		}
	}
	for i, db := range dbs {
		want := n / (len(dbs) - i)
		n -= want
		keys, err := a.randomKeys(ctx, pool.DB(db), want)
		if err != nil {
			return err
		}
		owned := make(map[int][]string)
		for _, key := range keys {
			if source, name, ok := dm.Find(side, db, key); ok { // or else it is somebody else's
				owned[source] = append(owned[source], name)
			}
		}
		for source, names := range owned {
			if err := a.takeSample(ctx, side, source, names); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeSample adds keys of one of the source's databases to the sample, which one side has.
func (a *attempt) takeSample(ctx context.Context, side router.Side, db int, keys []string) error {
	place, _ := a.databases().At(side, db)
	c := a.ids[side].Pool().At(place)
	keys, err := a.chosen(ctx, c, keys)
	if err != nil {
		return err
	}
	parts, big, err := a.bySize(ctx, c, keys)
	if err != nil {
		return err
	}
	for _, some := range parts {
		a.sample = append(a.sample, handful{db: db, small: some})
	}
	for _, one := range big {
		a.sample = append(a.sample, handful{db: db, big: []string{one}})
	}
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
	here, _ := a.databases().At(a.from, some.db)
	there, _ := a.databases().At(a.to, some.db)
	from, to := a.ids[a.from].Pool().At(here), a.ids[a.to].Pool().At(there)
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

// randomKeys returns up to n keys of a server's database, each once and none of ours.
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
	return keys, nil
}
