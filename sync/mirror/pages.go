package mirror

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/filter"
	"github.com/crossfade/crossfade/sync/value"
)

// pages is how a database is scanned.
type pages struct {
	count  int // SCAN's COUNT
	only   *filter.Filter
	looked func(keys int) // how many more the server has looked at, about; nil: nobody asks
}

// scanned returns what a scan of a database's keys goes by.
func (l *lane) scanned() pages {
	return pages{count: l.size.scan(l.m.cfg.ScanCount), only: l.m.cfg.Only}
}

// each calls page with the keys of each page of a SCAN that are copied, as far as their
// names tell; ours are left out. The next page is asked for meanwhile.
func (p pages) each(ctx context.Context, c *redis.Client, page func([]string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	answers := make(chan *redis.ScanCmd, 1)
	match, kind := p.only.Scan()
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
		if match != "" || kind != "" {
			looked = p.count
		}
		apps := keys[:0]
		for _, k := range keys {
			if !strings.HasPrefix(k, KeyPrefix) && p.only.Name(k) {
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

// refusesType reports whether a server knows no SCAN … TYPE.
func refusesType(err error) bool {
	return !value.Unknown(err) && strings.Contains(strings.ToLower(err.Error()), "syntax error")
}

// keysOf counts the keys of a database of c that are copied, as far as their names tell.
func (l *lane) keysOf(ctx context.Context, c *redis.Client) (n int64, err error) {
	if l.m.cfg.Only == nil {
		n, err = c.DBSize(ctx).Result()
	} else {
		p := l.scanned()
		err = p.each(ctx, c, func(keys []string) error { n += int64(len(keys)); return nil })
	}
	if err != nil {
		return 0, fmt.Errorf("counting the keys of database %d on %s: %w", c.Options().DB, c.Options().Addr, err)
	}
	return n, nil
}
