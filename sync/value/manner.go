package value

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Manner says how values are copied by type from one server to another. The zero value
// loses nothing and takes all.
type Manner struct {
	// DropFieldExpiries has hashes copied without the expiries of their fields to a
	// target that knows none. Otherwise such a hash is an ErrFieldExpiry.
	DropFieldExpiries bool
}

// Logical copies one key by type, see the function Logical.
func (m Manner) Logical(ctx context.Context, src, dst *redis.Client, key string) (Outcome, error) {
	return m.tryLogical(ctx, src, dst, key)
}
