package value

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// errMisfit says that what the target has is not what it was taken for, or that
// what happened cannot be carried piece by piece: the whole must be copied.
var errMisfit = errors.New("whole value must be copied")

// shrinkMost is how many elements are taken away from a list or a stream by one
// command: they are freed at once.
const shrinkMost = 4096

// Extend brings what came since the last copy, and nothing else: new elements at
// one end, or fewer of them, or those that are known to have changed. It returns false when the whole must be copied by
// Build; then, and after an error, the target's value may be one that never was.
func (b *Big) Extend(ctx context.Context, src *redis.Client, w Watch) (out Outcome, ok bool, err error) {
	if !b.placed {
		return Outcome{}, false, nil
	}
	before := b.Account().Bytes
	switch {
	case b.kind == "stream":
		err = b.extendStream(ctx, src, w)
	case hasElements(b.kind):
		err = b.extendElements(ctx, src, w)
	default:
		err = b.extendRun(ctx, src, w)
	}
	switch {
	case errors.Is(err, ErrOpen):
		return Outcome{}, true, err
	case errors.Is(err, errMisfit) || errors.Is(err, errChanged) || movedOn(err) || lacks(err): // what the whole takes may be allowed
		b.placed = false
		return Outcome{}, false, nil
	case err != nil:
		// The last command may have been run or not, which its length does not
		// tell when it was the expiry that failed.
		b.placed = b.placed && (hasElements(b.kind) || b.kind != "stream" && b.recount(ctx))
		return Outcome{}, true, fmt.Errorf("adding to %s key %q from %s: %w", b.kind, b.key, at(src), classify(err))
	}
	return Outcome{Copied: true, Bytes: b.Account().Bytes - before, Dropped: b.dropped}, true, nil
}

// recount asks how much the target has, after a command whose outcome is not
// known but can no longer be open.
func (b *Big) recount(ctx context.Context) bool {
	err := b.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		n, err := dst.Do(ctx, sizes[b.kind], b.key).Int64()
		if err == nil && n > 0 {
			b.length = n
			return nil
		}
		return errors.Join(err, errMisfit)
	})
	return err == nil
}

// oneEnd is what is to be done at one end of a list or string.
type oneEnd struct {
	allowed Changes
	read    func(from, n int64) []any // of the source: n elements past from that the target has
	add     string                    // command that adds them to the target
	reverse bool                      // they are added one by one at the head
	cut     func(from, to int64) []any
}

// end chooses by what happened; nil when it took place at more than one end.
func (b *Big) end(seen Changes) *oneEnd {
	tail := func(from, n int64) []any { return []any{"LRANGE", b.key, from, from + n - 1} }
	head := func(from, n int64) []any { return []any{"LRANGE", b.key, -from - n, -from - 1} }
	switch {
	case b.kind == "string" && seen.only(Appended):
		return &oneEnd{Appended, func(from, n int64) []any { return []any{"GETRANGE", b.key, from, from + n - 1} }, "APPEND", false, nil}
	case b.kind != "list":
		return nil
	}
	seen &^= Grouped // nothing changes a list without an event
	switch {
	case seen.only(Appended):
		return &oneEnd{Appended, tail, "RPUSHX", false, nil}
	case seen.only(Prepended):
		return &oneEnd{Prepended, head, "LPUSHX", true, nil}
	case seen.only(TailPopped):
		return &oneEnd{TailPopped, tail, "", false, func(_, to int64) []any { return []any{"LTRIM", b.key, 0, to - 1} }}
	case seen.only(HeadPopped):
		return &oneEnd{HeadPopped, tail, "", false, func(from, to int64) []any { return []any{"LTRIM", b.key, from - to, -1} }}
	}
	return nil
}

// extendRun brings a list or a string up to the length that it has at the first
// look. What comes after that marks the key again.
func (b *Big) extendRun(ctx context.Context, src *redis.Client, w Watch) error {
	goal := int64(-1)
	for missed := 0; ; {
		known, before := w.Known()
		r := b.end(known)
		if r == nil {
			return errMisfit
		}
		most := int64(chunkBytes)
		if b.kind == "list" {
			most = int64(b.pace.next(listMost))
		}
		length, expire, part, err := b.readRun(ctx, src, r.read(b.length, most))
		if err != nil {
			return err
		}
		// Only now is it known what that was a part of.
		seen, after, err := w.Seen(ctx)
		if err != nil {
			return err
		}
		if !seen.only(r.allowed | Grouped) {
			if missed++; missed > 8 {
				return errMisfit
			}
			continue // nothing was written yet: choose again
		}
		if goal < 0 {
			goal = length
		}
		if err := b.writeRun(ctx, r, length, expire, part); err != nil {
			return err
		}
		if b.length == length && before == after {
			w.Settle(after)
		}
		if r.cut == nil && b.length >= goal || r.cut != nil && b.length <= goal {
			return nil
		}
	}
}

// readRun reads a key's length and expiry and a part of it, as one step.
func (b *Big) readRun(ctx context.Context, src *redis.Client, read []any) (length, expire int64, part []string, err error) {
	p := src.TxPipeline()
	size := p.Do(ctx, sizes[b.kind], b.key)
	elems := p.Do(ctx, read...)
	ttl := p.Do(ctx, "PTTL", b.key)
	clock := p.Do(ctx, "TIME")
	if err := must(ctx, p); err != nil {
		return 0, 0, nil, err
	}
	if expire, err = absolute(ttl.Val(), clock.Val()); err != nil {
		return 0, 0, nil, err
	}
	if expire > noExpiry { // to the millisecond, where the server can tell
		if expire, err = expireTime(ctx, src, b.key); err != nil {
			return 0, 0, nil, err
		}
	}
	if length, err = size.Int64(); err != nil {
		return 0, 0, nil, err
	}
	if expire == noKey || length == 0 {
		return 0, 0, nil, errMisfit
	}
	if b.kind == "string" {
		return length, expire, []string{text(elems.Val())}, nil
	}
	part, err = texts(elems.Val())
	return length, expire, part, err
}

// writeRun applies to the target what was read, if it still has what it is
// taken to have.
func (b *Big) writeRun(ctx context.Context, r *oneEnd, length, expire int64, part []string) error {
	var cmd []any
	next, bytes := b.length, int64(0)
	switch {
	case r.cut != nil && length < b.length:
		next = max(length, b.length-shrinkMost)
		cmd = r.cut(b.length, next)
	case r.cut != nil || length <= b.length:
		if length != b.length {
			return errMisfit
		}
	default:
		bytes = sum(part)
		if next += int64(len(part)); b.kind == "string" {
			next = b.length + bytes
		} else {
			b.pace.saw(len(part), bytes, chunkBytes, listMost)
		}
		if next == b.length {
			return errMisfit // it is said to be longer, and has nothing there
		}
		if r.reverse {
			slices.Reverse(part)
		}
		cmd = anys(part, r.add, b.key)
	}
	err := b.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		p := dst.TxPipeline()
		was := p.Do(ctx, sizes[b.kind], b.key)
		if cmd != nil {
			p.Do(ctx, cmd...)
		}
		is := p.Do(ctx, sizes[b.kind], b.key)
		setExpiry(ctx, p, b.key, expire)
		if err := must(ctx, p); err != nil {
			return err
		}
		if n, err := was.Int64(); err != nil || n != b.length {
			return errors.Join(err, errMisfit)
		}
		if n, err := is.Int64(); err != nil || n != next {
			return errors.Join(err, errMisfit)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.length = next
	b.account(func(a *Account) { a.Bytes += bytes })
	return nil
}
