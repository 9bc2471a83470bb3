package value

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	chunkBytes = 1 << 20 // of a string, and what a round of elements should stay near
	chunkMost  = 1024    // elements a round

	// tempLife is how long a temporary key outlives its last chunk when we
	// die. It is renewed with every chunk.
	tempLife = time.Hour
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
	const tries = 4
	for range tries - 1 {
		out, err := logical(ctx, src, dst, key)
		if !errors.Is(err, errChanged) {
			return out, err
		}
	}
	return logical(ctx, src, dst, key)
}

func logical(ctx context.Context, src, dst *redis.Client, key string) (Outcome, error) {
	kind, err := src.Type(ctx, key).Result()
	if err != nil {
		return Outcome{}, fmt.Errorf("asking %s for the type of key %q: %w", at(src), key, err)
	}
	if kind == "none" {
		return Outcome{Removed: true}, remove(ctx, dst, key)
	}
	read, ok := copiers[kind]
	if !ok {
		return Outcome{}, fmt.Errorf("copying key %q from %s: %w: %s", key, at(src), ErrType, kind)
	}
	t := &temp{dst: dst, key: TempPrefix + rand.Text()}
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
	if expire == noKey {
		return Outcome{Removed: true}, remove(ctx, dst, key)
	}
	if err := t.rename(ctx, key, expire); err != nil {
		return Outcome{}, fmt.Errorf("putting %s key %q into place on %s: %w", kind, key, at(dst), classify(err))
	}
	return Outcome{Copied: true, Bytes: t.bytes}, nil
}

// temp is the temporary key that a value is built under. One goroutine's.
type temp struct {
	dst     *redis.Client
	key     string
	bytes   int64
	began   bool // something may be there
	renamed bool
	length  int64 // at the last chunk
}

// write runs commands on the temporary key, one round trip, and counts bytes of
// payload. Any command's error is returned.
func (t *temp) write(ctx context.Context, bytes int64, cmds ...[]any) error {
	t.began = true
	t.bytes += bytes
	p := t.dst.Pipeline()
	for _, c := range cmds {
		p.Do(ctx, c...)
	}
	alive := p.PExpire(ctx, t.key, tempLife)
	if err := must(ctx, p); err != nil {
		return err
	}
	if !alive.Val() {
		return fmt.Errorf("%w: temporary key is empty or gone", errChanged)
	}
	return nil
}

// grow is write for a chunk of elements; size is the command that counts them.
// A temporary key that shrank was evicted or flushed away in between and must
// not be renamed into place half.
func (t *temp) grow(ctx context.Context, bytes int64, size string, cmds ...[]any) error {
	if err := t.write(ctx, bytes, cmds...); err != nil {
		return err
	}
	n, err := t.dst.Do(ctx, size, t.key).Int64()
	if err != nil {
		return err
	}
	if n < t.length {
		return fmt.Errorf("%w: temporary key lost elements (eviction or flush on the target)", errChanged)
	}
	t.length = n
	return nil
}

// rename puts the value into place. RENAME comes before the expiry: one that is
// already past would delete the temporary key, RENAME would fail and the old
// value would stay.
func (t *temp) rename(ctx context.Context, key string, expire int64) error {
	p := t.dst.TxPipeline()
	moved := p.Rename(ctx, t.key, key)
	if expire == noExpiry {
		p.Persist(ctx, key)
	} else {
		p.Do(ctx, "PEXPIREAT", key, expire)
	}
	err := must(ctx, p)
	if says(moved.Err(), "no such key") {
		return fmt.Errorf("%w: it was empty in the end", errChanged)
	}
	t.renamed = err == nil
	return err
}

// drop removes what is left, also when ctx has ended. When it cannot, the key's
// expiry does.
func (t *temp) drop(ctx context.Context) {
	if !t.began || t.renamed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = remove(ctx, t.dst, t.key)
}
