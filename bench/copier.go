package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// copierVerb makes this program a copier: bench -copier …
const copierVerb = "-copier"

// copier copies database 0 of one server to another and ends: SCAN, then DUMP and
// RESTORE in pipelines. It is what can be had with a page of code, for comparison;
// it follows no changes.
func copier(ctx context.Context, args []string) error {
	var from, to string
	var workers, batch, count int
	flags := flag.NewFlagSet("copier", flag.ContinueOnError)
	flags.StringVar(&from, "from", "", "address")
	flags.StringVar(&to, "to", "", "address")
	flags.IntVar(&workers, "workers", 4, "pipelines at the same time")
	flags.IntVar(&batch, "batch", 256, "keys in a pipeline")
	flags.IntVar(&count, "count", 1000, "COUNT of SCAN")
	if err := flags.Parse(args); err != nil {
		return err
	}
	redistest.SilenceClients()
	source, target := redis.NewClient(redistest.Options(from, 0)), redis.NewClient(redistest.Options(to, 0))
	defer func() { _, _ = source.Close(), target.Close() }()
	group, ctx := errgroup.WithContext(ctx)
	keys := make(chan []string, workers)
	group.Go(func() error {
		defer close(keys)
		return scan(ctx, source, int64(count), batch, keys)
	})
	for range workers {
		group.Go(func() error {
			for list := range keys {
				if err := carry(ctx, source, target, list); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func scan(ctx context.Context, source *redis.Client, count int64, batch int, into chan<- []string) error {
	var cursor uint64
	for {
		page, next, err := source.Scan(ctx, cursor, "", count).Result()
		if err != nil {
			return fmt.Errorf("scanning: %w", err)
		}
		for len(page) > 0 {
			n := min(batch, len(page))
			select {
			case into <- page[:n]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			page = page[n:]
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// carry copies keys: one round trip to read, one to write. A key that is gone is
// left out.
func carry(ctx context.Context, source, target *redis.Client, keys []string) error {
	dumps := make([]*redis.StringCmd, len(keys))
	expiries := make([]*redis.DurationCmd, len(keys))
	_, err := source.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, k := range keys {
			dumps[i], expiries[i] = p.Dump(ctx, k), p.PExpireTime(ctx, k)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("reading: %w", err)
	}
	_, err = target.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, k := range keys {
			if dumps[i].Err() == nil {
				p.Do(ctx, "RESTORE", k, max(0, expiries[i].Val().Milliseconds()), dumps[i].Val(), "REPLACE", "ABSTTL")
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
