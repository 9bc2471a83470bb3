// Package verify compares two servers' databases both ways: every key of the source, and what the target has besides.
// It owns the walk, the keys that are to be looked at again and the report.
// It never writes to a server, never repairs and never puts a value into a report.
package verify

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

// Config says what is compared and how. Source, Target and Databases are needed.
type Config struct {
	Source, Target func(db int) *redis.Client // the clients stay the caller's
	Databases      map[int]int                // source database to target database

	Batch     int           // keys of one SCAN page; 0 means 500
	Tolerance time.Duration // between expiries; 0 means 5 ms
	Settle    time.Duration // until a differing key is compared again; 0 means 500 ms
	Rounds    int           // how often it is; 0 means 5, negative means never
	Sample    float64       // share of the keys, in (0, 1]; 0 means all
	Pending   int           // differing keys remembered at a time; 0 means 10000

	// Ignore leaves keys out, on both sides. nil leaves out "crossfade:*".
	Ignore func(key string) bool
	// OnDiffer is called whenever a key is found differing, with the source's
	// database: so that it can be marked dirty before it is compared again.
	OnDiffer func(db int, key string)
	// Progress is called after every page. Both are called from Run's own
	// goroutine, with no lock held.
	Progress func(Progress)
}

// Progress is where Run is in one database.
type Progress struct {
	Source    int    `json:"source"` // database numbers
	Target    int    `json:"target"`
	Step      string `json:"step"`      // "compare", "extras" or "settle"
	Done      int64  `json:"done"`      // keys looked at in this step
	Total     int64  `json:"total"`     // about how many there are
	Unsettled int    `json:"unsettled"` // keys that differ and will be looked at again
	Bytes     int64  `json:"bytes"`     // of payload read from the source so far
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Source == nil || c.Target == nil {
		errs = append(errs, errors.New("source and target are needed"))
	}
	if len(c.Databases) == 0 {
		errs = append(errs, errors.New("no database to compare"))
	}
	if c.Sample < 0 || c.Sample > 1 || math.IsNaN(c.Sample) {
		errs = append(errs, fmt.Errorf("sample %v is no share between 0 and 1", c.Sample))
	}
	if c.Batch <= 0 {
		c.Batch = 500
	}
	if c.Settle <= 0 {
		c.Settle = 500 * time.Millisecond
	}
	if c.Rounds == 0 {
		c.Rounds = 5
	}
	if c.Pending <= 0 {
		c.Pending = 10000
	}
	if c.Sample == 0 {
		c.Sample = 1
	}
	if c.Ignore == nil {
		c.Ignore = func(key string) bool { return strings.HasPrefix(key, "crossfade:") }
	}
	if c.OnDiffer == nil {
		c.OnDiffer = func(int, string) {}
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	return c, errors.Join(errs...)
}

// Run compares the databases one after the other and returns what lasted: a key
// that differs is compared again after Settle, up to Rounds times, and is
// reported when it differed each time. A key that differed each time, but had
// changed on both sides between the last two looks, is only counted as moving.
//
// Memory is bounded by Batch and Pending. With an error (a connection or ctx
// ended, a command refused) the report says how far Run came.
func Run(ctx context.Context, cfg Config) (Report, error) {
	began := time.Now()
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Report{}, fmt.Errorf("comparing source and target: %w", err)
	}
	report := Report{Sample: cfg.Sample, Began: began}
	comparer := &value.Comparer{Tolerance: cfg.Tolerance}
	seed := maphash.MakeSeed()
	for _, db := range slices.Sorted(maps.Keys(cfg.Databases)) {
		w := &walk{
			cfg: cfg, comparer: comparer, seed: seed,
			src: cfg.Source(db), dst: cfg.Target(cfg.Databases[db]),
			report: Database{Source: db, Target: cfg.Databases[db]},
			again:  make(map[string]value.Diff),
		}
		err := w.run(ctx)
		report.Databases = append(report.Databases, w.report)
		if err != nil {
			report.finish(began)
			return report, fmt.Errorf("comparing source database %d with target database %d: %w", db, cfg.Databases[db], err)
		}
	}
	report.Complete = true
	report.finish(began)
	return report, nil
}

// walk is the comparison of one database. One goroutine's.
type walk struct {
	cfg      Config
	comparer *value.Comparer
	seed     maphash.Seed
	src, dst *redis.Client
	report   Database
	again    map[string]value.Diff // keys that differed at the last look
	done     int64                 // of this step
	total    int64
	step     string
}

func (w *walk) run(ctx context.Context) error {
	began := time.Now()
	defer func() { w.report.Seconds = time.Since(began).Seconds() }()
	if err := w.begin(ctx, "compare", w.src); err != nil {
		return err
	}
	if err := w.scan(ctx, w.src, w.compare); err != nil {
		return err
	}
	if err := w.begin(ctx, "extras", w.dst); err != nil {
		return err
	}
	if err := w.scan(ctx, w.dst, w.extras); err != nil {
		return err
	}
	return w.settle(ctx)
}

func (w *walk) begin(ctx context.Context, step string, c *redis.Client) error {
	n, err := c.DBSize(ctx).Result()
	if err != nil {
		return fmt.Errorf("counting the keys on %s: %w", c.Options().Addr, err)
	}
	w.step, w.done, w.total = step, 0, n
	return nil
}

// scan calls page with all keys of c that count, in pages.
func (w *walk) scan(ctx context.Context, c *redis.Client, page func(context.Context, []string) error) error {
	for cursor := uint64(0); ; {
		keys, next, err := c.Scan(ctx, cursor, "", int64(w.cfg.Batch)).Result()
		if err != nil {
			return fmt.Errorf("scanning %s: %w", c.Options().Addr, err)
		}
		w.done += int64(len(keys))
		keys = slices.DeleteFunc(keys, w.leaveOut)
		if len(keys) > 0 {
			if err := page(ctx, keys); err != nil {
				return err
			}
		}
		if len(w.again) >= w.cfg.Pending {
			if err := w.settle(ctx); err != nil {
				return err
			}
		}
		w.progress()
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

func (w *walk) progress() {
	w.cfg.Progress(Progress{
		Source: w.report.Source, Target: w.report.Target, Step: w.step, Done: w.done,
		Total: max(w.total, w.done), Unsettled: len(w.again), Bytes: w.report.Bytes,
	})
}

// leaveOut chooses by the key's hash, so that both directions see the same sample.
func (w *walk) leaveOut(key string) bool {
	if w.cfg.Ignore(key) {
		return true
	}
	return w.cfg.Sample < 1 && float64(maphash.String(w.seed, key))/math.MaxUint64 >= w.cfg.Sample
}

func (w *walk) compare(ctx context.Context, keys []string) error {
	diffs, err := w.comparer.Compare(ctx, w.src, w.dst, keys)
	for i, d := range diffs {
		w.report.Keys++
		w.report.Bytes += d.Bytes
		if !d.Equal() {
			w.remember(keys[i], d)
		}
	}
	return err
}

// extras looks for keys that only the target has; those that both have were
// compared before.
func (w *walk) extras(ctx context.Context, keys []string) error {
	p := w.src.Pipeline()
	found := make([]*redis.IntCmd, len(keys))
	for i, k := range keys {
		found[i] = p.Exists(ctx, k)
	}
	if _, err := p.Exec(ctx); err != nil {
		return fmt.Errorf("asking %s for %d keys: %w", w.src.Options().Addr, len(keys), err)
	}
	for i, k := range keys {
		w.report.TargetKeys++
		if _, known := w.again[k]; !known && found[i].Val() == 0 {
			w.remember(k, value.Diff{Kind: value.Extra, Words: "key is on the target only"})
		}
	}
	return nil
}

func (w *walk) remember(key string, d value.Diff) {
	w.again[key] = d
	w.cfg.OnDiffer(w.report.Source, key)
}

// settle compares the remembered keys until they are equal or out of rounds,
// and reports what is left. Afterwards nothing is remembered.
func (w *walk) settle(ctx context.Context) error {
	moved := make(map[string]bool)
	for range w.cfg.Rounds {
		if len(w.again) == 0 {
			return nil
		}
		if err := wait(ctx, w.cfg.Settle); err != nil {
			return err
		}
		keys := slices.Collect(maps.Keys(w.again))
		for page := range slices.Chunk(keys, w.cfg.Batch) {
			if err := w.look(ctx, page, moved); err != nil {
				return err
			}
		}
		w.cfg.Progress(Progress{
			Source: w.report.Source, Target: w.report.Target, Step: "settle", Done: int64(len(keys) - len(w.again)),
			Total: int64(len(keys)), Unsettled: len(w.again), Bytes: w.report.Bytes,
		})
	}
	for _, k := range slices.Sorted(maps.Keys(w.again)) {
		if moved[k] {
			w.report.Moving++
			continue
		}
		w.report.add(k, w.again[k])
	}
	clear(w.again)
	return nil
}

// look compares keys again. moved notes those of which both sides are different
// from the last look: they are written and copied faster than we can look.
func (w *walk) look(ctx context.Context, keys []string, moved map[string]bool) error {
	diffs, err := w.comparer.Compare(ctx, w.src, w.dst, keys)
	if err != nil {
		return err
	}
	for i, k := range keys {
		d, last := diffs[i], w.again[k]
		w.report.Bytes += d.Bytes
		w.report.Again++
		if d.Equal() {
			delete(w.again, k)
			continue
		}
		moved[k] = differs(d.PrintA, last.PrintA) && differs(d.PrintB, last.PrintB)
		w.remember(k, d)
	}
	return nil
}

// differs compares prints; one that is not known proves no movement.
func differs(x, y uint64) bool { return x != 0 && y != 0 && x != y }

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
