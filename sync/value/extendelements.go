package value

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/elements"
)

// ErrOpen says that commands are under way of which it is not known what they have
// changed: to be tried again soon.
var ErrOpen = errors.New("commands on the key are under way")

const (
	stillTries = 50                   // times that a moment is waited for in which no command is under way
	stillWait  = 5 * time.Millisecond // … each time
)

// hasElements reports whether a type's elements have no place in a row, so that what
// has changed of it can be told by naming them.
func hasElements(kind string) bool { return kind == "hash" || kind == "set" || kind == "zset" }

// count has the changes of elements counted from now on. It returns false where nobody
// does, or where the key is never still.
func (b *Big) count(ctx context.Context, w Watch) (bool, error) {
	if !hasElements(b.kind) {
		return false, nil
	}
	book := w.Elements()
	if book == nil {
		return false, nil
	}
	for range stillTries {
		book.Await(ctx, stillWait)
		mark, still := book.Still()
		if !still {
			continue
		}
		if _, _, err := w.Seen(ctx); err != nil {
			return false, err
		}
		if book.Base(mark) {
			return true, nil
		}
	}
	book.Debase()
	return false, nil
}

// extendElements looks at the elements that have changed, and makes the target's the
// same: what they are now, whatever has happened to them and in whatever order. When
// all that the source has told of is explained by them, the target has the value.
func (b *Big) extendElements(ctx context.Context, src *redis.Client, w Watch) error {
	book := w.Elements()
	if book == nil {
		return errMisfit
	}
	book.Await(ctx, stillWait) // what has an event is about to be answered
	names, number, known := book.Changed()
	if !known {
		return errMisfit
	}
	seen, before, err := w.Seen(ctx)
	if err != nil {
		return err
	}
	if !seen.only(Element | Grouped) { // nothing changes these without an event
		return errMisfit
	}
	verdict := book.Judge(number)
	if verdict == elements.Alien {
		return errMisfit
	}
	length, want, err := b.bring(ctx, src, names)
	if err != nil {
		return err
	}
	book.Settle(number)
	if verdict == elements.Open {
		return ErrOpen
	}
	// The proof needs no lengths. But what costs so little shall be looked at: they are
	// of the same moment if nothing has come meanwhile.
	seen, after, err := w.Seen(ctx)
	if err != nil {
		return err
	}
	if !seen.only(Element|Grouped) || before == after && length != want {
		return errMisfit
	}
	return nil
}

// bring writes elements and the key's expiry as they are on the source. It returns how
// many elements the target has then, and how many the source.
func (b *Big) bring(ctx context.Context, src *redis.Client, names []string) (length, want int64, err error) {
	expire, err := expireTime(ctx, src, b.key)
	if err != nil {
		return 0, 0, err
	}
	if expire == noKey {
		return 0, 0, errMisfit
	}
	t := b.live()
	from := &pair{b: src, keyB: b.key, old: b.old}
	for {
		n := min(b.pace.next(chunkMost), len(names))
		var cmds [][]any
		var bytes int64
		if n > 0 {
			if cmds, bytes, err = b.read(ctx, from, names[:n]); err != nil {
				return 0, 0, err
			}
			b.pace.saw(n, bytes, chunkBytes, chunkMost)
		}
		if names = names[n:]; len(names) == 0 {
			cmds = append(cmds, expiryOf(b.key, expire))
		}
		length, err = t.send(ctx, bytes, sizes[b.kind], cmds)
		if b.kind == "hash" && lacks(err) && b.Manner.DropFieldExpiries && !b.noFields {
			b.noFields = true
			length, err = t.send(ctx, 0, sizes[b.kind], b.withoutFields(cmds))
		}
		if err != nil {
			return 0, 0, err
		}
		if len(names) == 0 {
			break
		}
	}
	b.old = from.old
	want, err = src.Do(ctx, sizes[b.kind], b.key).Int64()
	return length, want, err
}

// read asks the source for elements and returns the commands that make the target's
// the same. Those that add come first, so that the key never is empty in between.
func (b *Big) read(ctx context.Context, from *pair, names []string) (cmds [][]any, bytes int64, err error) {
	add, remove := []any{"HSET", b.key}, []any{"HDEL", b.key}
	var answers []any
	switch b.kind {
	case "hash":
		answers, err = from.ask(ctx, "HMGET", "HGET", names)
	case "set":
		add[0], remove[0] = "SADD", "SREM"
		answers, err = from.ask(ctx, "SMISMEMBER", "SISMEMBER", names)
	case "zset":
		add[0], remove[0] = "ZADD", "ZREM"
		answers, err = from.ask(ctx, "ZMSCORE", "ZSCORE", names)
	}
	if err != nil {
		return nil, 0, err
	}
	var pairs []string
	for i, a := range answers {
		text, has := a.(string)
		bytes += int64(len(names[i]) + len(text))
		switch {
		case b.kind == "set" && a == int64(1):
			add = append(add, names[i])
		case b.kind == "zset" && has:
			add = append(add, text, names[i])
		case b.kind == "hash" && has:
			pairs = append(pairs, names[i], text)
		default:
			remove = append(remove, names[i])
		}
	}
	var expire [][]any
	if len(pairs) > 0 {
		fields, _ := split(pairs)
		at, _, err := fieldExpiries(ctx, from.b, b.key, fields)
		if err != nil {
			return nil, 0, err
		}
		for i, ms := range at {
			switch {
			case ms == noField: // it has expired since
				remove = append(remove, fields[i])
			case ms > 0:
				expire = append(expire, []any{"HPEXPIREAT", b.key, ms, "FIELDS", 1, fields[i]})
			}
		}
		pairs, _ = alive(pairs, at)
		add = append(add, anys(pairs)...)
	}
	if len(add) > 2 {
		cmds = append(cmds, add)
	}
	if len(remove) > 2 {
		cmds = append(cmds, remove)
	}
	if cmds = append(cmds, expire...); b.noFields {
		cmds = b.withoutFields(cmds)
	}
	return cmds, bytes, nil
}

// withoutFields leaves the expiries of fields out.
func (b *Big) withoutFields(cmds [][]any) [][]any {
	return slices.DeleteFunc(cmds, func(c []any) bool {
		if c[0] != "HPEXPIREAT" {
			return false
		}
		b.dropped++
		return true
	})
}
