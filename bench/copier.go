package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// copierVerb makes this program a copier: bench -copier …
const copierVerb = "-copier"

// copier copies database 0 of one server to another: SCAN, then DUMP and RESTORE in
// pipelines. It is what can be had with a page of code, for comparison; it follows no
// changes. It copies everything once, or again and again for as long as it is told.
func copier(ctx context.Context, args []string) error {
	var from, to string
	var workers, batch, count int
	var length time.Duration
	flags := flag.NewFlagSet("copier", flag.ContinueOnError)
	flags.StringVar(&from, "from", "", "address")
	flags.StringVar(&to, "to", "", "address")
	flags.IntVar(&workers, "workers", 4, "pipelines at the same time")
	flags.IntVar(&batch, "batch", 256, "keys in a pipeline")
	flags.IntVar(&count, "count", 1000, "COUNT of SCAN")
	flags.DurationVar(&length, "for", 0, "how long to copy again and again; 0: once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	redistest.SilenceClients()
	source, target := redis.NewClient(redistest.Options(from, 0)), redis.NewClient(redistest.Options(to, 0))
	defer func() { _, _ = source.Close(), target.Close() }()
	over := make(<-chan time.Time) // never
	if length > 0 {
		over = time.After(length)
	}
	group, ctx := errgroup.WithContext(ctx)
	keys := make(chan []string, workers)
	group.Go(func() error {
		defer close(keys)
		for {
			if again, err := scan(ctx, source, int64(count), batch, keys, over); !again || length == 0 {
				return err
			}
		}
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

// scan hands out all keys; whole is false when the time was over before.
func scan(ctx context.Context, source *redis.Client, count int64, batch int, into chan<- []string, over <-chan time.Time) (whole bool, err error) {
	var cursor uint64
	for {
		page, next, err := source.Scan(ctx, cursor, "", count).Result()
		if err != nil {
			return false, fmt.Errorf("scanning: %w", err)
		}
		for len(page) > 0 {
			n := min(batch, len(page))
			select {
			case into <- page[:n]:
			case <-over:
				return false, nil
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
			page = page[n:]
		}
		if cursor = next; cursor == 0 {
			return true, nil
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
