package value

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"
)

// pendingMost is how many entries may wait in a stream's groups for the groups
// to be written anew in place. What the old ones hold is freed at once.
const pendingMost = 20_000

// extendStream brings new entries, takes the oldest away until there are as
// many as on the source, and writes the groups anew when something happened to
// them, or when not as much is pending in them as on the source. Entries never
// change and their ids only grow; so the target, which has all that the source
// has and perhaps more, is right when number and oldest entry agree.
func (b *Big) extendStream(ctx context.Context, src *redis.Client, w Watch) error {
	seen, before := w.Known()
	if !seen.only(Appended | Trimmed | Deleted | Grouped) {
		return errMisfit
	}
	expire, err := expireTime(ctx, src, b.key)
	if err != nil {
		return err
	}
	s, err := readStream(ctx, src, b.key)
	if err != nil {
		return err
	}
	if expire == noKey || s.last.compare(b.last) < 0 {
		return errMisfit
	}
	t := b.live()
	from, more := b.last.next()
	if more && s.last != b.last {
		err := entriesFrom(ctx, src, b.key, from, s.last, &b.pace, func(es []entry) error {
			var bytes int64
			cmds := make([][]any, len(es))
			for i, e := range es {
				cmds[i] = anys(e.fields, "XADD", b.key, e.id.String())
				bytes += sum(e.fields)
			}
			if err := t.write(ctx, bytes, cmds...); err != nil {
				return err
			}
			b.last = es[len(es)-1].id
			return nil
		})
		if err != nil {
			return err
		}
	}
	b.last = s.last
	if err := b.shorten(ctx, t, s); err != nil {
		return err
	}
	seen, after, err := w.Seen(ctx)
	if err != nil {
		return err
	}
	if !seen.only(Appended | Trimmed | Deleted | Grouped) {
		return errMisfit
	}
	agree := true
	if seen&(Trimmed|Deleted|Grouped) != 0 || b.lacks {
		old, err := b.groups(ctx)
		if err != nil {
			return err
		}
		// A server can take what is pending away together with the entries (8.2, DELREF).
		if seen&Grouped != 0 || b.lacks || !samePending(old, s.groups) {
			if agree, err = b.regroup(ctx, src, t, s.groups, old); err != nil {
				return err
			}
			b.lacks = !agree
		}
	}
	if err := setCounters(ctx, t, s); err != nil {
		return err
	}
	if err := t.expire(ctx, expire); err != nil {
		return err
	}
	seen, last, err := w.Seen(ctx)
	if err != nil {
		return err
	}
	if !seen.only(Appended | Trimmed | Deleted | Grouped) {
		return errMisfit
	}
	switch {
	case before != after || after != last: // the key is marked again, so nobody takes it for settled
	case !agree:
		return errMisfit
	default:
		w.Settle(last)
	}
	return nil
}

// live is a temp that writes to the key itself.
func (b *Big) live() *temp {
	t := newTemp(b.through, b.Manner, b.key)
	t.key, t.live, t.began = b.key, true, true
	b.follow(t, 0)
	return t
}

// shorten takes the oldest entries away until the target has s.length.
func (b *Big) shorten(ctx context.Context, t *temp, s stream) error {
	n, err := t.send(ctx, 0, "XLEN", nil)
	if err != nil {
		return err
	}
	for n > s.length {
		next := max(s.length, n-shrinkMost)
		got, err := t.send(ctx, 0, "XLEN", [][]any{{"XTRIM", b.key, "MAXLEN", next}})
		if err != nil {
			return err
		}
		if got != next {
			return errMisfit
		}
		n = next
	}
	if n < s.length {
		return errMisfit
	}
	var first []entry
	err = b.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		var err error
		first, err = entries(ctx, dst, b.key, streamID{}, s.last, 1)
		return err
	})
	if err != nil {
		return err
	}
	if len(first) == 0 && s.length > 0 || len(first) > 0 && first[0].id != s.first {
		return errMisfit
	}
	return nil
}

// groups returns the groups that the target has.
func (b *Big) groups(ctx context.Context) (groups []group, err error) {
	err = b.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		have, err := readStream(ctx, dst, b.key)
		groups = have.groups
		return err
	})
	return groups, err
}

// samePending reports whether both have the same groups, and as much is pending in each.
func samePending(a, b []group) bool {
	return slices.EqualFunc(a, b, func(x, y group) bool { return x.name == y.name && x.pending == y.pending })
}

// regroup writes the groups anew in place of old and reports whether all that is pending
// in them is pending now. What is so although its entry is gone cannot be written in
// place, see findGhosts.
func (b *Big) regroup(ctx context.Context, src *redis.Client, t *temp, groups, old []group) (agree bool, err error) {
	var all int64
	for _, g := range groups {
		all += g.pending
	}
	if all > pendingMost {
		return false, errMisfit
	}
	for _, g := range old {
		if g.pending > pendingMost {
			return false, errMisfit
		}
		if err := t.write(ctx, 0, []any{"XGROUP", "DESTROY", b.key, g.name}); err != nil {
			return false, err
		}
	}
	for _, g := range groups {
		if err := copyGroup(ctx, src, b.key, t, g); err != nil {
			return false, err
		}
	}
	return !t.lacking, nil
}
