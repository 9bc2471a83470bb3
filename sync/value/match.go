package value

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Match reports whether the target has the whole value already, with the same expiry:
// what a copy would bring is compared instead, in chunks, and nothing is written. c
// should be strict. When it returns false the whole must be copied by Build; so it must
// after an error.
//
// As with Build, exactness is w's: the target has the value when nothing came between
// the call's begin and a barrier after its end. Then, too, what is added to a list or a
// string later, and elements that change, can follow by themselves.
func (b *Big) Match(ctx context.Context, src, dst *redis.Client, c *Comparer, w Watch) (bool, error) {
	if b.temp != nil { // a copy that was begun goes on
		return false, nil
	}
	b.placed = false
	w.Begin()
	kind, _, err := b.look(ctx, src)
	if err != nil {
		return false, fmt.Errorf("asking %s for the size of key %q: %w", at(src), b.key, err)
	}
	if b.kind = kind; sizes[kind] == "" {
		return false, nil
	}
	if b.counts, err = b.count(ctx, w); err != nil {
		return false, fmt.Errorf("beginning with %s key %q: %w", kind, b.key, err)
	}
	// Most values that differ can be told at a glance.
	d, err := Glance(ctx, src, dst, b.key)
	if err != nil || !d.Equal() || d.Gone {
		return false, err
	}
	ds, err := c.Compare(ctx, src, dst, []string{b.key})
	if err != nil || !ds[0].Equal() || ds[0].Gone {
		return false, err
	}
	length, expire, err := b.measure(ctx, src)
	if movedOn(err) || err == nil && expire == noKey {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking %s for the length of key %q: %w", at(src), b.key, err)
	}
	seen, n, err := w.Seen(ctx)
	if err != nil {
		return false, err
	}
	if seen == 0 && (kind == "list" || kind == "string" || hasElements(kind) && b.counts) {
		b.length, b.placed = length, true
		w.Settle(n)
	}
	return true, nil
}
