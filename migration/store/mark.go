package store

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Mark writes a key, and waits until each of the server's replicas has it, and so all that
// the server ran before; at most for patience. known is how many replicas others say there
// are: where fewer are online, some of these will come back without. An error that is
// ErrBehind means that it is written, and that some replica has not said so.
func Mark(ctx context.Context, c *redis.Client, key, value string, known int, patience time.Duration) error {
	cn := c.Conn()
	defer func() { _ = cn.Close() }()
	var r replicas
	p := cn.Pipeline()
	r.info = p.Info(ctx, "replication")
	set := p.Set(ctx, key, value, 0)
	if err := Answered(p.Exec(ctx)); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	if err := set.Err(); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	if err := r.await(ctx, cn, patience); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	if n, err := r.online(); err == nil && n < known {
		return fmt.Errorf("writing %s: %w: of %d replicas %d are online", key, ErrBehind, known, n)
	}
	return nil
}
