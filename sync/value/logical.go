package value

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

const (
	chunkBytes = 1 << 20 // of a string, and what a round of elements should stay near
	// chunkMost is how many elements a round has at most: to set the fields of a hash of
	// millions takes a server a microsecond and a half each, and three times as long when
	// others have its caches.
	chunkMost = 256

	// listMost is for lists, whose elements cost a server least: a tenth of a
	// microsecond to read or to push.
	listMost = 2048
)

// copiers has one reader a type. Bitmaps, bitfields and HyperLogLogs are strings,
// geo sets are sorted sets.
var copiers = map[string]func(context.Context, *redis.Client, string, *temp) error{
	"string": copyString,
	"list":   copyList,
	"set":    copySet,
	"zset":   copyZSet,
	"hash":   copyHash,
	"stream": copyStream,
}

// Logical copies one key by type, in chunks: for when RESTORE is refused or the
// key is big. The value is built under a temporary key and renamed over the key
// with its expiry in one step, so that dst has either the old or the new value.
//
// A key that changes meanwhile may end as a mixture; whoever copies keys that
// change copies them again. A key that went away ends as removed. Every failure
// is returned as the error; ErrType names a type that is not known. Unknown(err)
// tells whether the last write may still arrive.
func Logical(ctx context.Context, src, dst *redis.Client, key string) (Outcome, error) {
	return Manner{}.Logical(ctx, src, dst, key)
}

func (m Manner) tryLogical(ctx context.Context, src, dst *redis.Client, key string) (Outcome, error) {
	const tries = 4
	for range tries - 1 {
		out, err := m.logical(ctx, src, dst, key)
		if !errors.Is(err, errChanged) {
			return out, err
		}
	}
	return m.logical(ctx, src, dst, key)
}

func (m Manner) logical(ctx context.Context, src, dst *redis.Client, key string) (Outcome, error) {
	kind, err := src.Type(ctx, key).Result()
	if err != nil {
		return Outcome{}, fmt.Errorf("asking %s for the type of key %q: %w", at(src), key, err)
	}
	if m.outside(key, kind) {
		return Outcome{}, ErrOutside
	}
	if kind == "none" {
		return Outcome{Removed: true}, remove(ctx, dst, key)
	}
	read, ok := copiers[kind]
	if !ok {
		return Outcome{}, fmt.Errorf("copying key %q from %s: %w: %s", key, at(src), ErrType, kind)
	}
	t := newTemp(direct(dst), m, key)
	defer t.drop(ctx)
	if err := read(ctx, src, key, t); err != nil {
		if movedOn(err) {
			err = fmt.Errorf("%w: %w", errChanged, err)
		}
		return Outcome{}, fmt.Errorf("copying %s key %q from %s to %s: %w", kind, key, at(src), at(dst), classify(err))
	}
	// Only now: a key that vanished while it was read must not come back.
	expire, err := expireTime(ctx, src, key)
	if err != nil {
		return Outcome{}, fmt.Errorf("asking %s for the expiry of key %q: %w", at(src), key, err)
	}
	gone := expire == noKey || t.hollow(kind)
	if gone && m.outside(key, "none") {
		return Outcome{}, ErrOutside
	}
	if gone {
		return Outcome{Removed: true}, remove(ctx, dst, key)
	}
	if err := t.rename(ctx, key, expire); err != nil {
		return Outcome{}, fmt.Errorf("putting %s key %q into place on %s: %w", kind, key, at(dst), classify(err))
	}
	return Outcome{Copied: true, Bytes: t.bytes, Dropped: t.dropped}, nil
}
