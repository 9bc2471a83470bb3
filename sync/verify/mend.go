package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/value"
)

// mendOutside takes away what the follower has of keys that are not of a type that is
// chosen, and returns the others.
func mendOutside(ctx context.Context, cfg Config, from, to *redis.Client, keys []string) ([]string, error) {
	if !cfg.Only.Typed() {
		return keys, nil
	}
	of, err := kinds(ctx, from, keys)
	if err != nil {
		return nil, err
	}
	var inside, outside []string
	for i, k := range keys {
		if cfg.Only.Type(of[i]) {
			inside = append(inside, k)
		} else {
			outside = append(outside, k)
		}
	}
	_, err = value.RemoveKinds(ctx, to, outside, func(_, kind string) bool { return cfg.Only.Type(kind) })
	return inside, err
}

// Mender returns a Repair that copies keys itself, from the truth to the follower,
// and removes there what the truth does not have. It is for two servers between
// which nobody else copies: two copiers could overtake each other.
func Mender(cfg Config) func(ctx context.Context, db int, keys []string) error {
	var batch value.Batch
	return func(ctx context.Context, db int, keys []string) error {
		from, to := cfg.Source(router.Place{DB: db}), cfg.Target(cfg.Databases[db])
		manner := value.Manner{DropFieldExpiries: cfg.NoFieldExpiries, Prefix: cfg.Databases[db].Prefix}
		if cfg.Reverse {
			from, to = to, from
			manner.Prefix = ""
		}
		manner.Cluster = value.Clustered(to)
		keys, err := mendOutside(ctx, cfg, from, to, keys)
		if err != nil {
			return err
		}
		comparer := value.Comparer{Big: cfg.Big}
		big, err := comparer.IsBig(ctx, from, keys)
		if err != nil {
			return err
		}
		var small, others []string
		for i, k := range keys {
			if big[i] {
				others = append(others, k)
			} else {
				small = append(small, k)
			}
		}
		outcomes, err := batch.Copy(ctx, from, to, small)
		if err != nil {
			return err
		}
		var errs []error
		for i, o := range outcomes {
			switch {
			case errors.Is(o.Err, value.ErrRestoreRefused):
				others = append(others, small[i])
			case o.Err != nil:
				errs = append(errs, o.Err)
			}
		}
		for _, k := range others {
			if out, err := manner.Logical(ctx, from, to, k); err != nil || out.Err != nil {
				errs = append(errs, errors.Join(err, out.Err))
			}
		}
		if len(errs) > 0 {
			return fmt.Errorf("%d of %d keys could not be repaired: %w", len(errs), len(keys), errs[0])
		}
		return nil
	}
}
