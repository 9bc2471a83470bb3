package mirror

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// A scan for the keys of one place goes through all keys of its database. Where several
// lanes want one of the same database at the same time, as after a gap, one scan does for
// all that wait when it begins; who comes later waits for the next one. No lane gets a key
// that the scan found before the lane asked.

// sharedScans are the scans of the databases of one server.
type sharedScans struct {
	m    *Mirror
	pool func() *conn.Pool // the server, as it is when a scan begins
	side router.Side

	mu      sync.Mutex
	waiting map[int][]*sharer // by the server's database
	running map[int]bool
}

// sharer is a lane that waits for a scan, or takes its share of one.
type sharer struct {
	db    int // the source's
	pages pages
	keys  chan []string // closed at the end of the scan
	err   error         // of the scan, once keys is closed
	gone  chan struct{} // closed when the lane does not want any more
}

// sharedAhead is how many pages a lane may be behind the others of its scan before they
// wait for it.
const sharedAhead = 16

func newSharedScans(m *Mirror, pool func() *conn.Pool, side router.Side) *sharedScans {
	return &sharedScans{m: m, pool: pool, side: side, waiting: make(map[int][]*sharer), running: make(map[int]bool)}
}

// each is pages.each for the keys of a source database db that is at place.
func (s *sharedScans) each(ctx context.Context, db int, place router.Place, p pages, page func([]string) error) error {
	if place.Prefix == "" {
		return p.each(ctx, s.pool().At(place), page)
	}
	w := &sharer{db: db, pages: p, keys: make(chan []string, sharedAhead), gone: make(chan struct{})}
	defer close(w.gone)
	s.mu.Lock()
	s.waiting[place.DB] = append(s.waiting[place.DB], w)
	if !s.running[place.DB] {
		s.running[place.DB] = true
		s.m.wg.Go(func() { s.run(place.DB) })
	}
	s.mu.Unlock()
	for {
		select {
		case keys, open := <-w.keys:
			if !open {
				return w.err
			}
			if p.looked != nil {
				p.looked(len(keys))
			}
			if err := page(keys); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run scans as long as anybody waits.
func (s *sharedScans) run(db int) {
	for {
		s.mu.Lock()
		list := s.waiting[db]
		delete(s.waiting, db)
		if len(list) == 0 {
			s.running[db] = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := s.scan(s.m.ctx, db, list)
		for _, w := range list {
			w.err = err
			close(w.keys)
		}
	}
}

// scan gives each of list its keys. For one alone the server leaves out the others'.
func (s *sharedScans) scan(ctx context.Context, db int, list []*sharer) error {
	only := s.m.cfg.Only
	p := pages{count: list[0].pages.count, shared: true, all: true}
	pool := s.pool()
	c := pool.DB(db)
	if len(list) == 1 {
		place, _ := s.m.cfg.Map.At(s.side, list[0].db)
		c, p.only = pool.At(place), only
	}
	return p.each(ctx, c, func(keys []string) error {
		parts := make(map[int][]string, len(list))
		for _, key := range keys {
			source, name, mapped := list[0].db, key, true
			if len(list) > 1 {
				source, name, mapped = s.m.cfg.Map.Find(s.side, db, key)
			}
			if mapped && !strings.HasPrefix(name, KeyPrefix) && only.Name(name) {
				parts[source] = append(parts[source], name)
			}
		}
		left := len(list)
		for _, w := range list {
			select {
			case <-w.gone:
				left--
				continue
			default:
			}
			if len(parts[w.db]) == 0 {
				continue
			}
			select {
			case w.keys <- slices.Clone(parts[w.db]): // which is the lane's, and it may ask twice
			case <-w.gone:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if left == 0 {
			return errOutdated // nobody wants it any more
		}
		return nil
	})
}
