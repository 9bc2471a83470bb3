package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/elements"
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
		big, small, err := partBig(ctx, cfg, from, to, keys)
		if err != nil {
			return err
		}
		outcomes, err := batch.Copy(ctx, from, to, small)
		if err != nil {
			return err
		}
		var errs []error
		for i, o := range outcomes {
			switch {
			case errors.Is(o.Err, value.ErrRestoreRefused):
				if out, err := manner.Logical(ctx, from, to, small[i]); err != nil || out.Err != nil {
					errs = append(errs, errors.Join(err, out.Err))
				}
			case o.Err != nil:
				errs = append(errs, o.Err)
			}
		}
		for _, k := range big {
			err := mendBig(ctx, from, to, manner, k)
			if errors.Is(err, value.ErrType) { // a module's: RESTORE, or nothing
				err = mendWhole(ctx, &batch, from, to, k)
			}
			if err != nil {
				errs = append(errs, err)
			}
		}
		if len(errs) > 0 {
			return fmt.Errorf("%d of %d keys could not be repaired: %w", len(errs), len(keys), errs[0])
		}
		return nil
	}
}

// partBig parts those keys that are big on either side: RESTORE, or RENAME, over a big value
// would free that at once.
func partBig(ctx context.Context, cfg Config, from, to *redis.Client, keys []string) (big, small []string, err error) {
	comparers := [2]value.Comparer{{Big: cfg.Big}, {Big: cfg.Big}}
	there, err := comparers[0].IsBig(ctx, from, keys)
	if err != nil {
		return nil, nil, err
	}
	here, err := comparers[1].IsBig(ctx, to, keys)
	if err != nil {
		return nil, nil, err
	}
	for i, k := range keys {
		if there[i] || here[i] {
			big = append(big, k)
		} else {
			small = append(small, k)
		}
	}
	return big, small, nil
}

// mendTries is how often a key is copied that changes meanwhile.
const mendTries = 4

// mendBig copies a key in chunks.
func mendBig(ctx context.Context, from, to *redis.Client, manner value.Manner, key string) error {
	b := value.NewBig(key, func(ctx context.Context, write func(context.Context, *redis.Client) error) error {
		return write(ctx, to)
	})
	b.Manner = manner
	for try := 1; ; try++ {
		_, err := b.Build(ctx, from, unheard{})
		if err == nil {
			return nil
		}
		if try == mendTries || !value.Changed(err) {
			b.Drop(ctx)
			return err
		}
	}
}

// mendWhole copies a key by RESTORE.
func mendWhole(ctx context.Context, batch *value.Batch, from, to *redis.Client, key string) error {
	outcomes, err := batch.Copy(ctx, from, to, []string{key})
	if err != nil {
		return err
	}
	return outcomes[0].Err
}

// unheard is the value.Watch of who hears of no changes: any may have come.
type unheard struct{}

func (unheard) Begin()                                              {}
func (unheard) Known() (value.Changes, uint64)                      { return value.Remade, 0 }
func (unheard) Seen(context.Context) (value.Changes, uint64, error) { return value.Remade, 0, nil }
func (unheard) Settle(uint64)                                       {}
func (unheard) Elements() *elements.Key                             { return nil }
