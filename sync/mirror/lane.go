package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/dirty"
	"github.com/crossfade/crossfade/sync/pipe"
	"github.com/crossfade/crossfade/sync/value"
)

// lane keeps one database of To, or what of it has the prefix, equal to one of From. Keys
// have their clients' names.
type lane struct {
	m        *Mirror
	db       int          // the source's
	from, to router.Place // where it is on each server
	dirty    *dirty.Set
	ways     *pipe.Ways
	pages    chan task // from the scanner to the workers
	size     batchSize
	jobs     pace // of dirty keys
	typed    value.ByType
	scale    value.Scale
	stuck    notes        // keys that cannot be copied
	lossy    notes        // keys that were copied without the expiries of their fields
	refused  atomic.Int64 // how many jobs go without RESTORE yet, which To refuses

	// scan state. wanted rises with each request; a scan that began at wanted
	// value n makes the lane as good as n when it ends.
	mu         sync.Mutex
	wanted     int
	done       int
	distrusted bool // a gap is open: not clean although no scan is asked for yet
	changed    chan struct{}

	brake *brake
	big   *bigKeys
	quiet quietKeys
	count counters
}

type counters struct {
	total, scanned     atomic.Int64 // of the current or last scan
	copied, removed    atomic.Int64
	equal              atomic.Int64 // scanned keys that To had already as they are
	bytes              atomic.Int64
	scanStart, scanEnd atomic.Int64 // unix nanoseconds
}

func newLane(m *Mirror, db int, from, to router.Place, set *dirty.Set) *lane {
	l := &lane{
		m: m, db: db, from: from, to: to, dirty: set, changed: make(chan struct{}), brake: newBrake(),
		pages: make(chan task),
		ways: &pipe.Ways{
			Source: func(ctx context.Context) (*conn.Bundle, error) { return m.source().bundle(ctx, from) },
		},
	}
	l.size.fixed = m.cfg.Batch
	l.ways.Ours = m.mortal(0, from)
	l.typed.Manner = m.manner()
	l.typed.Manner.Prefix = to.Prefix
	l.ways.Takes = l.typed.Manner.Takes
	l.ways.Big = l.bigSize()
	l.big = newBigKeys(l)
	l.quiet.l = l
	l.ways.Known = l.big.knows
	return l
}

func (l *lane) src() *redis.Client { return l.m.source().pool.At(l.from) }
func (l *lane) dst() *redis.Client { return l.m.cfg.To.At(l.to) } // for reading

// mortal returns the keys of ours that have an expiry at a place, end 0 being From and 1
// being To.
func (m *Mirror) mortal(end int, place router.Place) []string {
	if place.DB != m.home[end] {
		return nil
	}
	return []string{m.heartbeatKey()}
}

// start runs the workers and the scanner until the mirror stops.
func (l *lane) start() {
	for i := range l.m.cfg.Workers {
		w := newWorker(l, i == 0 && l.m.cfg.Workers > 1)
		l.m.wg.Go(w.run)
	}
	l.m.wg.Go(l.scanner)
	l.big.start()
}

func (l *lane) notify() { // with mu held
	close(l.changed)
	l.changed = make(chan struct{})
}

// requestScan asks for a scan, which makes up for all that From has not told of until now. Keys
// in hand are copied once more, for the scan may find them on neither server: deleted on From
// behind the reading of a copy, and not on To before the scan has come by.
func (l *lane) requestScan() {
	l.big.doubt()
	l.quiet.forget()
	l.dirty.MarkHeld()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted++
	l.distrusted = false
	l.notify()
}

// distrust makes the lane unclean until the next requested scan is through.
func (l *lane) distrust() {
	l.big.doubt()
	l.quiet.forget()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.distrusted = true
	l.notify()
}

func (l *lane) rebase() {
	l.dirty.Forget()
	l.stuck.forget(l.stuck.keys()...)
	l.big.doubt()
	l.quiet.forget()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done, l.distrusted = l.wanted, false
	l.notify()
}

// scanComplete reports whether every requested scan is through and no mark was lost. What
// was scanned while From reported nothing has to be scanned again.
func (l *lane) scanComplete() bool {
	if l.m.untold() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done == l.wanted && !l.distrusted && !l.dirty.Overflowed() && !l.big.owes()
}

// waitClean waits until nothing is due: no scan, no dirty key.
func (l *lane) waitClean(ctx context.Context) error {
	for {
		if err := l.dirty.WaitClean(ctx); err != nil {
			return err
		}
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		dirtyChanged := l.dirty.Changed()
		if l.scanComplete() && l.dirty.Len() == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-dirtyChanged:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (l *lane) finished(keys []string) {
	if l.db != l.m.order[0] {
		return
	}
	for _, k := range keys {
		if k == l.m.heartbeatKey() {
			l.m.beat.copied()
		}
	}
}

// errOutdated ends a scan that does not count any more.
var errOutdated = errors.New("another scan was asked for meanwhile")

// scanner makes the scans that were asked for. One that is overtaken by a gap would have
// to be followed by another one of everything: so it is given up, and what it has not
// come to is not looked at twice. But not two in a row: where gaps come faster than
// scans end, To shall be brought up to date all the same, as far as that goes.
func (l *lane) scanner() {
	for gaveUp := false; ; {
		dirtyChanged := l.dirty.Changed() // before looking: a change in between must wake us
		changed, wanted, due := l.due()
		if !due {
			select {
			case <-changed:
			case <-dirtyChanged:
			case <-l.m.ctx.Done():
				return
			}
			continue
		}
		l.dirty.ClearOverflow() // before the scan: a mark lost during it counts again
		outdated := func() bool { return !gaveUp && l.asked() > wanted }
		err := l.scan(l.m.ctx, outdated)
		if gaveUp = errors.Is(err, errOutdated); gaveUp {
			continue
		}
		if err != nil {
			if l.m.ctx.Err() != nil {
				return
			}
			l.m.errs.add("scan", err)
			if !sleep(l.m.ctx, 500*time.Millisecond) {
				return
			}
			continue
		}
		l.mu.Lock()
		l.done = max(l.done, wanted)
		l.notify()
		l.mu.Unlock()
	}
}

// due reports whether a scan is, and how many were asked for. A mark that was dropped
// asks for one too, before it is forgotten: the lane is not complete until that is through.
func (l *lane) due() (changed <-chan struct{}, wanted int, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wanted == l.done && l.dirty.Overflowed() {
		l.m.log.Info("too many dirty keys to remember, scanning the database again", "database", l.db)
		l.wanted++
	}
	return l.changed, l.wanted, l.wanted != l.done
}

// asked returns how many scans were ever asked for.
func (l *lane) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wanted
}

// scan copies every key of From's database that To does not have as it is, then removes
// every key of To's database that From does not have. SCAN returns every key that is
// there from its beginning to its end; what comes or goes meanwhile is an event. It
// ends with errOutdated as soon as outdated says so.
func (l *lane) scan(ctx context.Context, outdated func() bool) error {
	total, err := l.about(ctx)
	if err != nil {
		return err
	}
	l.count.total.Store(total)
	l.count.scanned.Store(0)
	l.count.scanEnd.Store(0)
	l.count.scanStart.Store(time.Now().UnixNano())
	if err := l.scanFrom(ctx, outdated); err != nil {
		return err
	}
	if err := l.scanTo(ctx, outdated); err != nil {
		return err
	}
	if err := l.scanStuck(ctx); err != nil {
		return err
	}
	l.count.scanEnd.Store(time.Now().UnixNano())
	return nil
}

// scanFrom gives every page to be compared, or to the workers, and returns when all of
// them are equal or copied, or, where that failed, dirty.
func (l *lane) scanFrom(ctx context.Context, outdated func() bool) error {
	sift := l.newSift(ctx)
	defer sift.close()
	var under sync.WaitGroup
	defer under.Wait() // who has taken keys gives them back, whatever happens
	p := l.scanned(l.from)
	p.looked = func(n int) { l.count.scanned.Add(int64(n)) }
	err := l.m.ends[0].each(ctx, l.db, l.from, p, func(keys []string) error {
		if outdated() {
			return errOutdated
		}
		if err := l.big.room(ctx); err != nil {
			return err
		}
		return l.hand(ctx, keys, &under, sift.way)
	})
	if err != nil {
		return fmt.Errorf("scanning database %s of %s: %w", l.from, l.m.cfg.From, err)
	}
	return nil
}

// hand has keys that a scan has found copied, those that nobody else looks after. It
// returns when they are taken on, and under waits until they are given back. They come
// into hand only when they may go: who is in hand and has to wait, as long as a pause,
// would not be copied when a client changes it.
func (l *lane) hand(ctx context.Context, keys []string, under *sync.WaitGroup, way func() chan<- task) error {
	for len(keys) > 0 {
		n := min(len(keys), l.m.throttle.Batch(l.size.keys()))
		if err := l.m.throttle.Wait(ctx, n); err != nil {
			return err
		}
		mine := l.dirty.Claim(keys[:n:n])
		keys = keys[n:]
		if len(mine) == 0 {
			continue
		}
		under.Add(1)
		select {
		case way() <- task{keys: mine, done: under.Done}:
		case <-ctx.Done():
			under.Done()
			l.dirty.Retry(mine)
			return context.Cause(ctx)
		}
	}
	return nil
}

// scanTo has every key removed that From does not have. They are handed over as the
// others are: marks of very many might be dropped, and ask for yet another scan.
func (l *lane) scanTo(ctx context.Context, outdated func() bool) error {
	var under sync.WaitGroup
	defer under.Wait()
	p := l.scanned(l.to)
	p.seen = func(keys []string) { l.sweep(ctx, keys) }
	err := l.m.ends[1].each(ctx, l.db, l.to, p, func(keys []string) error {
		if outdated() {
			return errOutdated
		}
		lacks, err := l.lacking(ctx, keys)
		if err != nil {
			return err
		}
		return l.hand(ctx, lacks, &under, func() chan<- task { return l.pages })
	})
	if err != nil {
		return fmt.Errorf("looking for keys of database %s on %s that %s does not have: %w", l.to, l.m.cfg.To, l.m.cfg.From, err)
	}
	return nil
}

// sweep removes temporary keys that a process has left which was killed: each may be as large as
// the key that it was to become, and it would be there for an hour. Nobody else copies to To by
// now. What cannot be removed has its expiry.
func (l *lane) sweep(ctx context.Context, keys []string) {
	for _, k := range keys {
		if !value.Stray(k) || l.brake.enter(ctx) != nil {
			continue
		}
		to := l.m.writer()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.m.cfg.Timeout)
		err := to.pool.At(l.to).Unlink(ctx, k).Err()
		cancel()
		if value.Unknown(err) {
			l.m.replaceWriter(to)
		}
		l.brake.leave()
	}
}

// lacking returns those of keys that From does not have, or not of a type that is
// copied.
func (l *lane) lacking(ctx context.Context, keys []string) ([]string, error) {
	pipe := l.src().Pipeline()
	found := make([]*redis.IntCmd, len(keys))
	kinds := make([]*redis.StatusCmd, len(keys))
	typed := l.m.cfg.Only.Typed()
	for i, k := range keys {
		if typed {
			kinds[i] = pipe.Type(ctx, k)
		} else {
			found[i] = pipe.Exists(ctx, k)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	var out []string
	for i, k := range keys {
		if typed && !l.m.cfg.Only.Type(kinds[i].Val()) || !typed && found[i].Val() == 0 {
			out = append(out, k)
		}
	}
	return out, nil
}

func (l *lane) freeze(ctx context.Context) error {
	if err := l.brake.pull(ctx); err != nil {
		return fmt.Errorf("waiting for the last copies of database %s to %s: %w", l.from, l.m.cfg.To, err)
	}
	return nil
}

func (l *lane) thaw() { l.brake.release() }
