package demo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// ourKeys are the names of the keys that crossfade writes for itself.
const ourKeys = "crossfade:*"

// sumUp checks everything for the last time and prints what happened.
func (s *show) sumUp(ctx context.Context) error {
	if err := s.clients.pause(); err != nil {
		return err
	}
	v, err := s.judge(ctx)
	if err != nil {
		return err
	}
	left, err := s.leftovers(ctx)
	if err != nil {
		return err
	}
	s.plain("")
	s.plain("%-10s %12s %12s %14s  %s", "switch", "stall max", "stall p50", "clients held", "fence")
	for _, w := range s.switches {
		s.plain("%-10s %12s %9.1f ms %14d  %s", w.name, inMS(w.stall), w.report.Stall.P50, w.report.Sessions, w.report.Fence)
	}
	s.plain("")
	s.plain("keys copied          %s in %.1f s, beside the load: %s a second", count(s.copied.keys),
		s.copied.took.Seconds(), count(int64(float64(s.copied.keys)/s.copied.took.Seconds())))
	if len(s.lags) > 0 {
		slices.Sort(s.lags)
		s.plain("lag                  median %.1f ms, longest %.1f ms", s.lags[len(s.lags)/2], s.lags[len(s.lags)-1])
	}
	s.plain("acknowledged writes  %s (%s of them past the proxy)", count(v.acked), count(s.direct.Stats().Acked))
	s.plain("refused              %s, all past the proxy, none of them applied", count(s.direct.Stats().Refused))
	s.plain("client errors        %d through the proxy", s.clients.Stats().Errors)
	s.plain("keys of ours left    %d", left)
	s.plain("lost %d, doubled %d, reordered %d, stale %d   (%.0f s)", v.lost, v.doubled, v.reordered, v.other,
		time.Since(s.start).Seconds())
	if n := s.clients.Stats().Errors; n > 0 {
		return fmt.Errorf("clients through the proxy saw %d errors; the last one: %s", n, s.clients.Stats().LastError)
	}
	if left > 0 {
		return fmt.Errorf("%d keys of ours are left behind", left)
	}
	return nil
}

// leftovers counts our own keys on both servers.
func (s *show) leftovers(ctx context.Context) (n int, err error) {
	for from, to := range databases {
		for _, c := range []*redis.Client{s.source.Client(from), s.target.Client(to)} {
			keys, err := c.Keys(ctx, ourKeys).Result()
			if err != nil {
				return 0, fmt.Errorf("look for keys of ours at %s: %w", c.Options().Addr, err)
			}
			n += len(keys)
		}
	}
	return n, nil
}
