package value

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"
)

// copyStream copies entries, groups, consumers and pending entries, and last
// the counters, which the steps before would have moved.
func copyStream(ctx context.Context, src *redis.Client, key string, t *temp) error {
	s, err := readStream(ctx, src, key)
	if err != nil {
		return err
	}
	t.state = s
	ghosts, err := findGhosts(ctx, src, key, s)
	if err != nil {
		return err
	}
	if err := copyEntries(ctx, src, key, t, s, ghosts); err != nil {
		return err
	}
	t.grouped = true
	for _, g := range s.groups {
		if err := copyGroup(ctx, src, key, t, g); err != nil {
			return err
		}
	}
	if err := dropGhosts(ctx, t); err != nil {
		return err
	}
	return setCounters(ctx, t, s)
}

// findGhosts returns, in order, the ids that are pending although their entry
// was deleted or trimmed. XCLAIM makes no pending entry without an entry
// (since 7.0), so they get a stand-in for as long as the groups are written.
func findGhosts(ctx context.Context, src *redis.Client, key string, s stream) ([]streamID, error) {
	var ghosts []streamID
	for _, g := range s.groups {
		if g.pending == 0 {
			continue
		}
		err := eachPending(ctx, src, key, g.name, func(ps []pending) error {
			p := src.Pipeline()
			found := make([]*redis.Cmd, len(ps))
			for i, one := range ps {
				found[i] = p.Do(ctx, "XRANGE", key, one.id.String(), one.id.String(), "COUNT", 1)
			}
			if err := must(ctx, p); err != nil {
				return err
			}
			for i, c := range found {
				if list, ok := c.Val().([]any); ok && len(list) == 0 && ps[i].id.compare(s.last) <= 0 {
					ghosts = append(ghosts, ps[i].id)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(ghosts, streamID.compare)
	return slices.Compact(ghosts), nil
}

// copyEntries writes, from where t is, entries and ghosts in the order of their
// ids, and notes the first that is no ghost.
func copyEntries(ctx context.Context, src *redis.Client, key string, t *temp, s stream, ghosts []streamID) error {
	add := func(e entry) []any { return anys(e.fields, "XADD", t.key, e.id.String()) }
	standIn := func(id streamID) []any {
		t.standIns = append(t.standIns, id)
		return []any{"XADD", t.key, id.String(), "", ""}
	}
	from := streamID{}
	if t.began {
		n, found := slices.BinarySearchFunc(ghosts, t.last, streamID.compare)
		if ghosts = ghosts[n:]; found {
			ghosts = ghosts[1:]
		}
		var ok bool
		if from, ok = t.last.next(); !ok {
			return nil
		}
	}
	err := entriesFrom(ctx, src, key, from, s.last, &t.pace, func(es []entry) error {
		var bytes int64
		cmds, ids := make([][]any, 0, len(es)), make([]streamID, 0, len(es))
		for _, e := range es {
			for len(ghosts) > 0 && ghosts[0].compare(e.id) < 0 {
				cmds, ids = append(cmds, standIn(ghosts[0])), append(ids, ghosts[0])
				ghosts = ghosts[1:]
			}
			if len(ghosts) > 0 && ghosts[0] == e.id { // cannot be: ids are not used twice
				ghosts = ghosts[1:]
			}
			if t.first == nil {
				id := e.id
				t.first = &id
			}
			cmds, ids = append(cmds, add(e)), append(ids, e.id)
			bytes += sum(e.fields)
		}
		return t.addEntries(ctx, bytes, ids, cmds)
	})
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(ghosts, chunkMost) {
		cmds := make([][]any, len(chunk))
		for i, id := range chunk {
			cmds[i] = standIn(id)
		}
		if err := t.addEntries(ctx, 0, chunk, cmds); err != nil {
			return err
		}
	}
	if t.length == 0 { // an empty stream; XADD and XDEL would leave a trace
		t.grouped = true
		return t.write(ctx, 0,
			[]any{"XGROUP", "CREATE", t.key, "crossfade", "0", "MKSTREAM"},
			[]any{"XGROUP", "DESTROY", t.key, "crossfade"})
	}
	return nil
}

// addEntries writes a chunk of entries and stand-ins, one command each, which have ids.
func (t *temp) addEntries(ctx context.Context, bytes int64, ids []streamID, cmds [][]any) error {
	t.sent = ids
	if err := t.grow(ctx, bytes, "XLEN", cmds...); err != nil {
		return err
	}
	t.last, t.sent = ids[len(ids)-1], nil
	return nil
}

// copyGroup writes a group anew. What is pending in it and cannot be claimed is noted:
// its entry went after ghosts were looked for and before entries were read, and as no
// event tells that groups have lost anything, nobody else would know.
func copyGroup(ctx context.Context, src *redis.Client, key string, t *temp, g group) error {
	create := []any{"XGROUP", "CREATE", t.key, g.name, g.last}
	var err error
	if g.read >= 0 {
		err = t.write(ctx, 0, append(slices.Clone(create), "ENTRIESREAD", g.read))
	}
	if g.read < 0 || tooNew(err) {
		err = t.write(ctx, 0, create)
	}
	if err != nil {
		return err
	}
	names, err := consumers(ctx, src, key, g.name)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(names, chunkMost) {
		cmds, asked := make([][]any, len(chunk)), make([][]any, len(chunk))
		for i, name := range chunk {
			cmds[i] = []any{"XGROUP", "CREATECONSUMER", t.key, g.name, name}
			asked[i] = []any{"XREADGROUP", "GROUP", g.name, name, "COUNT", 1, "STREAMS", t.key, 0}
		}
		err := t.write(ctx, 0, cmds...)
		if tooNew(err) {
			// Before 6.2 a consumer comes into being when it asks for what it was
			// given and has not acknowledged: nothing yet (t_stream.c, xreadCommand).
			err = t.write(ctx, 0, asked...)
		}
		if err != nil {
			return err
		}
	}
	if g.pending == 0 {
		return nil
	}
	return eachPending(ctx, src, key, g.name, func(ps []pending) error {
		cmds := make([][]any, len(ps))
		for i, p := range ps {
			cmds[i] = []any{"XCLAIM", t.key, g.name, p.consumer, 0, p.id.String(),
				"TIME", p.delivered, "RETRYCOUNT", p.count, "FORCE", "JUSTID", "LASTID", g.last}
		}
		claimed, _, err := t.ask(ctx, 0, "EXISTS", cmds)
		if err != nil {
			return err
		}
		for _, c := range claimed {
			if ids, ok := c.Val().([]any); !ok || len(ids) == 0 {
				t.lacking = true
			}
		}
		return nil
	})
}

// tooNew reports whether the server does not know an option or subcommand.
func tooNew(err error) bool {
	return unknownCommand(err) || says(err, "syntax error") || says(err, "wrong number of arguments")
}

// dropGhosts removes the stand-ins, also those of a copy that goes on here, some of which
// are no ghosts any more: acknowledged meanwhile. Those before the first real entry are
// trimmed: XDEL would be remembered as max-deleted-id, which cannot be taken
// back, while the source may have trimmed too. The others were deleted by XDEL
// on the source as well, which remembers them.
func dropGhosts(ctx context.Context, t *temp) error {
	if len(t.standIns) == 0 {
		return nil
	}
	slices.SortFunc(t.standIns, streamID.compare)
	ghosts, first := slices.Compact(t.standIns), t.first
	if first == nil {
		return t.write(ctx, 0, []any{"XTRIM", t.key, "MAXLEN", 0})
	}
	if ghosts[0].compare(*first) < 0 {
		err := t.write(ctx, 0, []any{"XTRIM", t.key, "MINID", "=", first.String()})
		if err != nil && !tooNew(err) {
			return err
		}
		if err == nil {
			n, _ := slices.BinarySearchFunc(ghosts, *first, streamID.compare)
			ghosts = ghosts[n:]
		}
	}
	for chunk := range slices.Chunk(ghosts, chunkMost) {
		args := []any{"XDEL", t.key}
		for _, id := range chunk {
			args = append(args, id.String())
		}
		if err := t.write(ctx, 0, args); err != nil {
			return err
		}
	}
	return nil
}

func setCounters(ctx context.Context, t *temp, s stream) error {
	set := []any{"XSETID", t.key, s.last.String()}
	if s.added >= 0 && s.maxDeleted != "" {
		err := t.write(ctx, 0, append(slices.Clone(set), "ENTRIESADDED", s.added, "MAXDELETEDID", s.maxDeleted))
		if !tooNew(err) {
			return err
		}
	}
	return t.write(ctx, 0, set)
}
