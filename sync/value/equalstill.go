package value

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Still compares one key while it watches it on truth, which is a or b: for keys
// that are too big for prints. before is called once the key is watched and says
// when to begin, such as when what was written last has arrived on the other side.
// still reports whether the key was not written on truth from before to the end: a
// difference is one of a value that stood still then.
//
// XACK, XREADGROUP and XCLAIM escape a WATCH. Groups are read a second time for
// that, and the difference is Torn when they have changed.
func (c *Comparer) Still(ctx context.Context, a, b, truth *redis.Client, key string, before func(context.Context) error) (d Diff, still bool, err error) {
	err = truth.Watch(ctx, func(tx *redis.Tx) error {
		if err := before(ctx); err != nil {
			return err
		}
		ds, err := c.Compare(ctx, a, b, []string{key})
		if err != nil {
			return err
		}
		d = ds[0]
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Ping(ctx)
			return nil
		})
		return err
	}, key)
	switch {
	case errors.Is(err, redis.TxFailedErr):
		return d, false, nil
	case err != nil:
		return d, false, fmt.Errorf("watching key %q on %s: %w", key, at(truth), err)
	}
	return d, true, nil
}

// Prints reads a small key n times from one side of Compare (on is a or b, as
// second says) and returns the prints, which can be compared with those of a Diff.
func (c *Comparer) Prints(ctx context.Context, on *redis.Client, second bool, key string, n int) ([]uint64, error) {
	c.once.Do(c.plant)
	r := &c.sides[0]
	if second {
		r = &c.sides[1]
	}
	if c.mute() {
		return c.printsTyped(ctx, on, r, key, n)
	}
	p := on.Pipeline()
	read := make([][]*redis.Cmd, n)
	old := r.old.Load()
	for i := range read {
		read[i] = r.ask(ctx, p, old, key)
	}
	if err := exec(ctx, p); err != nil {
		return nil, fmt.Errorf("reading key %q from %s: %w", key, at(on), err)
	}
	out := make([]uint64, n)
	for i, cmds := range read {
		var one [1]sight
		if err := parseGroup(cmds, []int{0}, old, one[:]); err != nil {
			return nil, fmt.Errorf("reading key %q from %s: %w", key, at(on), err)
		}
		out[i] = c.print(one[0])
	}
	return out, nil
}

// printsTyped is Prints without DUMP: a key that cannot be read so has none.
func (c *Comparer) printsTyped(ctx context.Context, on *redis.Client, r *reader, key string, n int) ([]uint64, error) {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = key
	}
	seen, err := r.readTyped(ctx, on, keys, make([]int64, n), 1)
	if err != nil {
		return nil, fmt.Errorf("reading key %q from %s: %w", key, at(on), err)
	}
	var out []uint64
	for _, s := range seen {
		if !s.unread {
			out = append(out, c.print(s))
		}
	}
	return out, nil
}
