package mirror

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/filter"
	"github.com/crossfade/crossfade/sync/value"
)

// pages is how a database is scanned.
type pages struct {
	count  int // SCAN's COUNT
	only   *filter.Filter
	kind   string         // none but keys of this type, where the server can tell; "": as only says
	shared bool           // others' keys are there too: how many were looked at is not known
	all    bool           // the caller chooses: nothing is left out
	looked func(keys int) // how many more the server has looked at, about; nil: nobody asks
	seen   func([]string) // is shown each page as it came, ours included; nil: nobody asks
}

// scanned returns what a scan of the keys at a place goes by. Where others share the
// database most of a page is theirs, and not sent: so it may be larger.
func (l *lane) scanned(place router.Place) pages {
	p := pages{count: l.size.scan(l.m.cfg.ScanCount), only: l.m.cfg.Only, shared: place.Prefix != ""}
	if p.shared {
		p.count = max(p.count, min(p.count*len(l.m.cfg.Map.SourcesAt(place.DB)), sharedScan))
	}
	return p
}

// sharedScan is COUNT at most then: a server is busy with that for a few milliseconds.
const sharedScan = 4 * mostScan

// each calls page with the keys of each page of a SCAN that are copied, as far as their
// names tell; ours are left out. The next page is asked for meanwhile.
func (p pages) each(ctx context.Context, c *redis.Client, page func([]string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	answers := make(chan *redis.ScanCmd, 1)
	match, kind := p.only.Scan()
	if p.kind != "" {
		kind = p.kind
	}
	ask := func(cursor uint64) {
		kind := kind
		asking.Go(func() { answers <- scanPage(ctx, c, cursor, match, kind, p.count) })
	}
	for ask(0); ; {
		keys, next, err := (<-answers).Result()
		if err != nil && kind != "" && refusesType(err) {
			kind = "" // before Redis 6.0: so says the first page
			ask(0)
			continue
		}
		if err != nil {
			return err
		}
		if next != 0 {
			ask(next)
		}
		looked := len(keys)
		if (match != "" || kind != "") && !p.shared {
			looked = p.count
		}
		if p.seen != nil {
			p.seen(keys)
		}
		apps := keys[:0]
		for _, k := range keys {
			if p.all || !strings.HasPrefix(k, KeyPrefix) && p.only.Name(k) {
				apps = append(apps, k)
			}
		}
		if p.looked != nil {
			p.looked(looked)
		}
		if len(apps) > 0 {
			if err := page(apps); err != nil {
				return err
			}
		}
		if next == 0 {
			return nil
		}
	}
}

func scanPage(ctx context.Context, c *redis.Client, cursor uint64, match, kind string, count int) *redis.ScanCmd {
	if kind == "" {
		return c.Scan(ctx, cursor, match, int64(count))
	}
	return c.ScanType(ctx, cursor, match, int64(count), kind)
}

// refusesType reports whether a server knows no SCAN … TYPE, or not that type.
func refusesType(err error) bool {
	text := strings.ToLower(err.Error())
	return !value.Unknown(err) && (strings.Contains(text, "syntax error") || strings.Contains(text, "unknown type"))
}

// keys counts the keys of all databases on both servers that are copied. Where a server's database is shared that takes a scan of it, which is spared
// where all that is in it would be too little to matter to checkLoss.
func (m *Mirror) keys(ctx context.Context) (from, to int64, err error) {
	exact := func(scans *sharedScans) (int64, error) {
		var n atomic.Int64
		together, tctx := errgroup.WithContext(ctx) // which lets them share a scan
		for _, db := range m.order {
			together.Go(func() error {
				place, _ := m.cfg.Map.At(scans.side, db)
				more, err := m.lanes[db].keysOf(tctx, scans, place)
				n.Add(more)
				return err
			})
		}
		err := together.Wait()
		return n.Load(), err
	}
	if from, err = exact(m.count[0]); err != nil {
		return 0, 0, err
	}
	for _, db := range m.cfg.Map.On(m.cfg.Side.Other()) {
		n, err := m.cfg.To.DB(db).DBSize(ctx).Result()
		if err != nil {
			return 0, 0, fmt.Errorf("counting the keys of database %d on %s: %w", db, m.cfg.To, err)
		}
		to += n
	}
	if m.cfg.Only == nil && to <= 2*from {
		return from, to, nil
	}
	to, err = exact(m.count[1])
	return from, to, err
}

// keysOf counts those of a lane on one server.
func (l *lane) keysOf(ctx context.Context, scans *sharedScans, place router.Place) (n int64, err error) {
	pool := scans.pool()
	if l.m.cfg.Only == nil && place.Prefix == "" {
		n, err = pool.DB(place.DB).DBSize(ctx).Result()
	} else {
		err = scans.each(ctx, l.db, place, l.scanned(place), func(keys []string) error {
			more, err := l.ofTypes(ctx, pool.At(place), keys)
			n += more
			return err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("counting the keys of database %s on %s: %w", place, pool, err)
	}
	return n, nil
}

// ofTypes counts those of keys that are of a type that is copied.
func (l *lane) ofTypes(ctx context.Context, c *redis.Client, keys []string) (n int64, err error) {
	if !l.m.cfg.Only.Typed() {
		return int64(len(keys)), nil
	}
	pipe := c.Pipeline()
	kinds := make([]*redis.StatusCmd, len(keys))
	for i, k := range keys {
		kinds[i] = pipe.Type(ctx, k)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, err
	}
	for _, k := range kinds {
		if l.m.cfg.Only.Type(k.Val()) {
			n++
		}
	}
	return n, nil
}

// about returns about how many keys a scan of From will find. Where From's database is
// shared nobody has counted them, but To has as many if all is well.
func (l *lane) about(ctx context.Context) (int64, error) {
	pool, db := l.m.source().pool, l.from.DB
	if l.from.Prefix != "" {
		pool, db = l.m.cfg.To, l.to.DB
	}
	n, err := pool.DB(db).DBSize(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("counting the keys of database %d on %s: %w", db, pool, err)
	}
	return n, nil
}
