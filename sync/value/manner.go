package value

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Manner says how values are copied by type from one server to another. The zero value
// loses nothing and takes all.
type Manner struct {
	// DropFieldExpiries has hashes copied without the expiries of their fields to a
	// target that knows none. Otherwise such a hash is an ErrFieldExpiry.
	DropFieldExpiries bool
	// Takes says of which types keys are copied. Others, and those that are not there
	// ("none") unless it takes these, are ErrOutside. nil: all are copied, and what is
	// not there is removed.
	Takes func(key, kind string) bool
	// Cluster says that the target is one: a temporary key is in the slot of its key there.
	Cluster bool
	// Prefix begins the names of all keys at their place on the target. It matters for
	// Cluster: temporary keys have no prefix, and must be in the slots of theirs.
	Prefix string
}

// ErrOutside says that a key is not of a type that is copied, or not there. Nothing was
// changed on the target. What to do is RemoveKinds.
var ErrOutside = errors.New("not of a type that is copied")

func (m Manner) outside(key, kind string) bool { return m.Takes != nil && !m.Takes(key, kind) }

// RemoveKinds removes those of keys on dst that are of a type that takes approves of:
// what is of another one was not copied. It returns how many there were. Nobody else
// may write these keys meanwhile.
func RemoveKinds(ctx context.Context, dst *redis.Client, keys []string, takes func(key, kind string) bool) (removed int, err error) {
	p := dst.Pipeline()
	kinds := make([]*redis.StatusCmd, len(keys))
	for i, k := range keys {
		kinds[i] = p.Type(ctx, k)
	}
	if err := must(ctx, p); err != nil {
		return 0, fmt.Errorf("asking %s for the types of %d keys: %w", at(dst), len(keys), err)
	}
	for i, k := range keys {
		if kind := kinds[i].Val(); kind == "none" || !takes(k, kind) {
			continue
		}
		if err := remove(ctx, dst, k); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// Logical copies one key by type, see the function Logical.
func (m Manner) Logical(ctx context.Context, src, dst *redis.Client, key string) (Outcome, error) {
	return m.tryLogical(ctx, src, dst, key)
}
