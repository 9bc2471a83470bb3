package verify

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/value"
)

// walk is the comparison of one pair of databases.
type walk struct {
	cfg         Config
	comparer    *value.Comparer
	seed        maphash.Seed
	db          int // of the source
	place       router.Place
	src, dst    *redis.Client
	truth, copy *redis.Client // the same two, by who follows whom
	suspects    *suspects
	throttle    *throttle.Throttle
	watchMost   int
	told        func(*suspect, verdict) // of the first verdict about each suspect; nil: nobody

	mu     sync.Mutex // guards what follows; held while Progress and OnDiffer are called
	report Database
	named  map[string]bool // keys that were counted: SCAN may show one twice
	step   string
	done   int64 // of this step
	total  int64
	// watching counts the times that keys were watched closely and not seen to follow: up
	// to watchMost of all keys, and behind them of those that the follower seems to have
	// no changes of.
	watching [2]int
}

// namedMost bounds the memory of counted keys. Past it a key that SCAN shows twice
// may count twice.
const namedMost = 100_000

func newWalk(cfg Config, db int) *walk {
	w := &walk{
		cfg: cfg, db: db, seed: maphash.MakeSeed(),
		comparer: &value.Comparer{Tolerance: cfg.Tolerance, Big: cfg.Big, Bound: 4 << 20, NoFieldExpiries: cfg.NoFieldExpiries},
		place:    cfg.Databases[db],
		src:      cfg.Source(router.Place{DB: db}), dst: cfg.Target(cfg.Databases[db]),
		report:   Database{Source: db, Target: cfg.Databases[db].DB, Prefix: cfg.Databases[db].Prefix},
		named:    make(map[string]bool),
		suspects: newSuspects(cfg.Pending),
		throttle: throttle.New(cfg.Limits, nil), watchMost: watchedKeys,
	}
	w.truth, w.copy = w.src, w.dst
	if cfg.Reverse {
		w.truth, w.copy = w.dst, w.src
	}
	return w
}

// run walks over the truth, then over the follower, while others judge what did not
// look equal.
func (w *walk) run(ctx context.Context) error {
	began := time.Now()
	defer func() { w.report.Seconds = time.Since(began).Seconds() }()
	judges, jctx := errgroup.WithContext(ctx)
	for range w.cfg.Parallel {
		judges.Go(func() error { return w.judge(jctx) })
	}
	err := w.pass(jctx, "compare", w.truth, 1, w.compare)
	if err == nil {
		err = w.pass(jctx, "extras", w.copy, extrasCost, w.extras)
	}
	if err == nil {
		w.begin("settle", int64(w.suspects.len()))
	}
	w.suspects.close(err != nil)
	judged := judges.Wait()
	w.progress(0)
	// A judge's failure ended the pass: it is the cause, not the context's end.
	if judged != nil && !errors.Is(judged, context.Canceled) {
		return judged
	}
	if err != nil {
		return err
	}
	return judged
}

func (w *walk) begin(step string, total int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step, w.done, w.total = step, 0, total
}

// extrasCost is what looking a key up costs, of what comparing one does.
const extrasCost = 0.25

// pass calls page with all keys of c that count, in pages, several at a time. cost is
// what a key counts for the rate.
func (w *walk) pass(ctx context.Context, step string, c *redis.Client, cost float64, page func(context.Context, []string) error) error {
	counted := c
	if w.place.Prefix != "" { // where others are too nobody counts them; there are as many if all is well
		counted = w.src
	}
	n, err := counted.DBSize(ctx).Result()
	if err != nil {
		return fmt.Errorf("counting the keys on %s: %w", counted.Options().Addr, err)
	}
	w.begin(step, n)
	g, gctx := errgroup.WithContext(ctx)
	pages := make(chan []string)
	g.Go(func() error {
		defer close(pages)
		return w.scan(gctx, c, cost, pages)
	})
	for range w.cfg.Parallel {
		g.Go(func() error {
			for keys := range pages {
				n := len(keys)
				keys, err := w.chosen(gctx, c, keys)
				if err == nil && len(keys) > 0 {
					err = page(gctx, keys)
				}
				if err != nil {
					return err
				}
				w.progress(int64(n))
			}
			return nil
		})
	}
	return g.Wait()
}

func (w *walk) scan(ctx context.Context, c *redis.Client, cost float64, pages chan<- []string) error {
	match, kind := w.cfg.Only.Scan()
	p := &pager{c: c, match: match, kind: kind, count: w.cfg.Batch}
	defer p.close()
	for {
		var keys []string
		err := retry(ctx, func() (err error) {
			keys, err = p.next(ctx)
			return err
		}, c)
		if err != nil {
			return fmt.Errorf("scanning %s: %w", c.Options().Addr, err)
		}
		all := len(keys)
		keys = slices.DeleteFunc(keys, w.leaveOut)
		if len(keys) < all {
			w.progress(int64(all - len(keys)))
		}
		// A SCAN of a database that is being resized may return far more than it was
		// asked for.
		for chunk := range slices.Chunk(keys, w.cfg.Batch) {
			if err := w.throttle.Wait(ctx, max(1, int(cost*float64(len(chunk))))); err != nil {
				return err
			}
			select {
			case pages <- chunk:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if p.cursor == 0 {
			return nil
		}
	}
}

// pair compares keys of the same names.
func (w *walk) pair(ctx context.Context, keys []string) (diffs []value.Diff, err error) {
	err = retry(ctx, func() error {
		diffs, err = w.comparer.Compare(ctx, w.src, w.dst, keys)
		if err == nil {
			err = w.outside(ctx, keys, diffs)
		}
		return err
	}, w.src, w.dst)
	return diffs, err
}

// progress counts keys as done and tells where the walk is.
func (w *walk) progress(done int64) {
	waiting := w.suspects.len()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += done
	if w.step == "settle" {
		w.done = max(0, w.total-int64(waiting))
	}
	w.cfg.Progress(Progress{
		Source: w.report.Source, Target: w.report.Target, Prefix: w.report.Prefix, Step: w.step, Done: w.done,
		Total: max(w.total, w.done), Unsettled: waiting, Differing: w.report.Differing, Bytes: w.report.Bytes,
	})
}

// leaveOut chooses by the key's hash, so that both directions see the same sample.
func (w *walk) leaveOut(key string) bool {
	if w.cfg.Ignore(key) || !w.cfg.Only.Name(key) {
		return true
	}
	return w.cfg.Sample < 1 && float64(maphash.String(w.seed, key))/math.MaxUint64 >= w.cfg.Sample
}

func (w *walk) compare(ctx context.Context, keys []string) error {
	diffs, err := w.pair(ctx, keys)
	var bytes int64
	for _, d := range diffs {
		bytes += d.Bytes
	}
	w.mu.Lock()
	w.report.Keys += int64(len(diffs))
	w.report.Bytes += bytes
	w.mu.Unlock()
	if err != nil {
		return err
	}
	for i, d := range diffs {
		if !d.Equal() {
			if err := w.suspect(ctx, keys[i], d); err != nil {
				return err
			}
		}
	}
	w.throttle.Spent(bytes) // which the next pages wait for
	return nil
}

// extras looks for keys that only the follower has; those that both have were
// compared before.
func (w *walk) extras(ctx context.Context, keys []string) error {
	there, err := w.there(ctx, keys)
	if err != nil {
		return fmt.Errorf("asking %s for %d keys: %w", w.truth.Options().Addr, len(keys), err)
	}
	w.mu.Lock()
	w.report.TargetKeys += int64(len(keys))
	w.mu.Unlock()
	only := w.tooMuch()
	for i, k := range keys {
		if !there[i] {
			if err := w.suspect(ctx, k, only); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walk) suspect(ctx context.Context, key string, d value.Diff) error {
	w.mu.Lock()
	named := w.named[key]
	w.mu.Unlock()
	if named {
		return nil
	}
	s := &suspect{key: key, diff: d, example: -1}
	s.truth, s.other = w.prints(d)
	s.anew()
	return w.suspects.add(ctx, s, w.cfg.Settle)
}

// prints are those of the truth and of the follower.
func (w *walk) prints(d value.Diff) (truth, other uint64) {
	if w.cfg.Reverse {
		return d.PrintB, d.PrintA
	}
	return d.PrintA, d.PrintB
}
