package value

import (
	"context"
	"slices"
)

// equalStream compares streams, and looks again at what the chunks do not show when
// they differ: acknowledging and claiming entries goes on unseen by a WATCH.
func equalStream(ctx context.Context, p *pair) (Diff, error) {
	before, err := p.streams(ctx)
	if err != nil {
		return Diff{}, err
	}
	d, err := equalStreams(ctx, p, before[0], before[1])
	if err != nil || d.Equal() {
		return d, err
	}
	after, err := p.streams(ctx)
	if err != nil {
		return Diff{}, err
	}
	for i := range before {
		x, y := before[i], after[i]
		if x.length != y.length || x.last != y.last || !slices.Equal(x.groups, y.groups) {
			d.Torn = true
		}
	}
	return d, nil
}

func (p *pair) streams(ctx context.Context) ([2]stream, error) {
	sa, sb, err := both(
		func() (stream, error) { return readStream(ctx, p.a, p.keyA) },
		func() (stream, error) { return readStream(ctx, p.b, p.keyB) })
	return [2]stream{sa, sb}, err
}

// equalState compares what streams say of themselves, but for their groups.
func equalState(sa, sb stream) Diff {
	switch {
	case sa.length != sb.length:
		return differ(Value, "%d entries on the source, %d on the target", sa.length, sb.length)
	case sa.last != sb.last:
		return differ(Value, "stream has last id %s on the source, %s on the target", sa.last, sb.last)
	case sa.added >= 0 && sb.added >= 0 && sa.added != sb.added:
		return differ(Value, "stream counts %d entries added on the source, %d on the target", sa.added, sb.added)
	case sa.maxDeleted != "" && sb.maxDeleted != "" && sa.maxDeleted != sb.maxDeleted:
		return differ(Value, "stream has max-deleted-id %s on the source, %s on the target", sa.maxDeleted, sb.maxDeleted)
	}
	return Diff{}
}

func equalStreams(ctx context.Context, p *pair, sa, sb stream) (d Diff, err error) {
	if d := equalState(sa, sb); !d.Equal() {
		return d, nil
	}
	err = eachEntries(ctx, p.a, p.keyA, sa.last, func(x []entry) error {
		y, err := entries(ctx, p.b, p.keyB, x[0].id, x[len(x)-1].id, len(x))
		if err != nil {
			return err
		}
		for i, e := range x {
			if err := p.read(ctx, sum(e.fields)); err != nil {
				return err
			}
			switch {
			case i >= len(y) || y[i].id != e.id:
				d = differ(Value, "stream entry %s is not on the target", e.id)
			case !slices.Equal(e.fields, y[i].fields):
				d = differ(Value, "stream entry %s has other fields", e.id)
			default:
				continue
			}
			return errEnough
		}
		return nil
	})
	if err = enough(err); err != nil || !d.Equal() {
		return d, err
	}
	return equalGroups(ctx, p, sa.groups, sb.groups)
}

func equalGroups(ctx context.Context, p *pair, ga, gb []group) (Diff, error) {
	if len(ga) != len(gb) {
		return differ(Group, "%d groups on the source, %d on the target", len(ga), len(gb)), nil
	}
	byName := make(map[string]group, len(gb))
	for _, g := range gb {
		byName[g.name] = g
	}
	for _, x := range ga {
		y, ok := byName[x.name]
		switch {
		case !ok:
			return differ(Group, "group %q is not on the target", x.name), nil
		case x.last != y.last:
			return differ(Group, "group %q was delivered up to %s on the source, %s on the target", x.name, x.last, y.last), nil
		case x.read != y.read && x.read != readAbsent && y.read != readAbsent:
			return differ(Group, "group %q counts %d entries read on the source, %d on the target (-1: unknown)", x.name, x.read, y.read), nil
		case x.pending != y.pending:
			return differ(Group, "group %q has %d pending entries on the source, %d on the target", x.name, x.pending, y.pending), nil
		}
		if d, err := equalGroup(ctx, p, x); err != nil || !d.Equal() {
			return d, err
		}
	}
	return Diff{}, nil
}

// equalGroup compares consumers and pending entries of a group that both have.
func equalGroup(ctx context.Context, p *pair, g group) (d Diff, err error) {
	x, y, err := both(
		func() ([]string, error) { return consumers(ctx, p.a, p.keyA, g.name) },
		func() ([]string, error) { return consumers(ctx, p.b, p.keyB, g.name) })
	if err != nil {
		return Diff{}, err
	}
	slices.Sort(x)
	slices.Sort(y)
	if len(x) != len(y) {
		return differ(Group, "group %q has %d consumers on the source, %d on the target", g.name, len(x), len(y)), nil
	}
	if !slices.Equal(x, y) {
		return differ(Group, "group %q has other consumers on the target", g.name), nil
	}
	if g.pending == 0 {
		return Diff{}, nil
	}
	err = eachPending(ctx, p.a, p.keyA, g.name, func(x []pending) error {
		y, err := pendings(ctx, p.b, p.keyB, g.name, x[0].id, len(x))
		if err != nil {
			return err
		}
		for i, e := range x {
			if d = p.equalPending(g.name, e, y, i); !d.Equal() {
				return errEnough
			}
		}
		return nil
	})
	return d, enough(err)
}

func (p *pair) equalPending(group string, e pending, y []pending, i int) Diff {
	if i >= len(y) || y[i].id != e.id {
		return differ(Group, "group %q: entry %s is not pending on the target", group, e.id)
	}
	off := y[i].delivered - e.delivered
	switch {
	case y[i].consumer != e.consumer:
		return differ(Group, "group %q: entry %s is pending for another consumer", group, e.id)
	case y[i].count != e.count:
		return differ(Group, "group %q: entry %s was delivered %d times on the source, %d on the target", group, e.id, e.count, y[i].count)
	case max(off, -off) > p.tolerance+2: // idle times and TIME are read in milliseconds, twice
		return differ(Group, "group %q: entry %s was delivered %s on the target", group, e.id, lateness(off))
	}
	return Diff{}
}
