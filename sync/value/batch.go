package value

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Batch copies many keys with DUMP and RESTORE: two round trips for some
// hundred small keys. One Batch serves one direction between two servers, any
// of their databases, and is safe for concurrent use; a key must not be in two
// calls at a time. The zero value is ready. Set the fields before first use.
type Batch struct {
	// Bound is about how many bytes of payload are held at a time by one
	// call; 0 means 16 MiB. It is met by experience: after a round that was
	// bigger, the next ones have fewer keys.
	Bound int64
	// Most is the highest number of keys a round; 0 means 256.
	Most int
	// MaxPayload is the payload from which a key is refused as ErrTooBig;
	// 0 means 64 MiB. (A server takes no bulk above 512 MiB at all.)
	MaxPayload int64

	source   dumper
	pace     pace
	noUnlink atomic.Bool
}

// Copy brings keys from src to dst as they are at this moment, absolute expiry
// included; a key that src does not have is removed on dst. A key whose expiry
// has passed on dst's clock ends as absent there, and its old value with it.
//
// The outcomes are in the order of keys. An error means that a connection or
// ctx ended: outcomes then still has one element a key, and those whose outcome
// is unknown carry the error.
func (b *Batch) Copy(ctx context.Context, src, dst *redis.Client, keys []string) ([]Outcome, error) {
	out := make([]Outcome, len(keys))
	bound, most := orDefault(b.Bound, 16<<20), orDefault(b.Most, 256)
	for begin := 0; begin < len(keys); {
		n := min(b.pace.next(most), len(keys)-begin)
		bytes, err := b.round(ctx, src, dst, keys[begin:begin+n], out[begin:begin+n])
		if err != nil {
			for i := begin; i < len(out); i++ {
				out[i] = Outcome{Err: err}
			}
			return out, err
		}
		b.pace.saw(n, bytes, bound, most)
		begin += n
	}
	return out, nil
}

func orDefault[T int | int64](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}

// round copies keys in one round trip to each side and returns the bytes read.
func (b *Batch) round(ctx context.Context, src, dst *redis.Client, keys []string, out []Outcome) (int64, error) {
	read, err := b.source.read(ctx, src, keys)
	if err != nil {
		return 0, err
	}
	var bytes int64
	p := dst.Pipeline()
	cmds := make([]*redis.Cmd, len(keys))
	for i, d := range read {
		size := int64(len(d.payload))
		bytes += size
		switch {
		case d.err != nil:
			out[i].Err = d.err
			if lacks(d.err) {
				out[i].Err = fmt.Errorf("%w: %w", ErrRestoreRefused, d.err)
			}
		case !d.found:
			cmds[i] = p.Do(ctx, b.unlink(), keys[i])
		case size > orDefault(b.MaxPayload, 64<<20):
			out[i].Err = fmt.Errorf("copying key %q to %s: %w: %d bytes", keys[i], at(dst), ErrTooBig, size)
		default:
			// 0 is "no expiry" to RESTORE. An expiry already past is right as it
			// is: RESTORE REPLACE then deletes the old value and adds nothing.
			cmds[i] = p.Do(ctx, "RESTORE", keys[i], max(0, d.expire), d.payload, "REPLACE", "ABSTTL")
		}
	}
	if err := exec(ctx, p); err != nil {
		return 0, fmt.Errorf("writing %d keys to %s: %w", len(keys), at(dst), err)
	}
	for i, c := range cmds {
		if c == nil {
			continue
		}
		err := c.Err()
		if !read[i].found && lacks(err) {
			b.noUnlink.Store(true)
			if err = dst.Do(ctx, b.unlink(), keys[i]).Err(); Unknown(err) {
				return 0, fmt.Errorf("removing key %q on %s: %w", keys[i], at(dst), err)
			}
		}
		out[i] = outcome(read[i], err)
		if out[i].Err != nil {
			out[i].Err = fmt.Errorf("writing key %q to %s: %w", keys[i], at(dst), out[i].Err)
		}
	}
	return bytes, nil
}

func (b *Batch) unlink() string {
	if b.noUnlink.Load() {
		return "DEL"
	}
	return "UNLINK"
}

// outcome classifies the target's answer.
func outcome(d dump, err error) Outcome {
	switch {
	case err == nil && d.found:
		return Outcome{Copied: true, Bytes: int64(len(d.payload))}
	case err == nil:
		return Outcome{Removed: true}
	default:
		return Outcome{Err: classify(err)}
	}
}

// classify gives a refusal of the target its name.
func classify(err error) error {
	switch {
	case says(err, "dump payload version or checksum are wrong"), says(err, "bad data format"):
		return fmt.Errorf("%w: %w", ErrRestoreRefused, err)
	case redis.IsOOMError(err), says(err, "oom command not allowed"):
		return fmt.Errorf("%w: %w", ErrOutOfMemory, err)
	}
	return discreet(err)
}
