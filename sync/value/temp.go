package value

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/slot"
)

// tempLife is how long a temporary key outlives its last chunk when we die, unless it is found
// before (see Stray). It is renewed with every chunk.
const tempLife = time.Hour

// Through runs write with a client of the target: a round trip or a few. When
// it returns, nothing of what write sent can arrive any more. The error is
// write's, or says why write did not run.
type Through func(ctx context.Context, write func(ctx context.Context, dst *redis.Client) error) error

// direct is Through for those who look after lost answers themselves.
func direct(dst *redis.Client) Through {
	return func(ctx context.Context, write func(context.Context, *redis.Client) error) error {
		return write(ctx, dst)
	}
}

// temp is the temporary key that a value is built under, and how far. A reader
// of the copiers that is called again after an error goes on from there. One
// goroutine's.
type temp struct {
	through Through
	key     string
	live    bool  // it is the key itself, which is not temporary at all
	swap    bool  // the value that is replaced may be big: it is freed in the background
	began   bool  // something may be there
	renamed bool  // nothing is there any more
	bytes   int64 // of payload, written so far
	length  int64 // elements or bytes after the last chunk
	pace    pace

	fromTail bool       // of a list: the last elements first
	cursor   string     // of SSCAN, HSCAN, ZSCAN; "" at the beginning
	state    stream     // of a stream, as of the end of its entries
	last     streamID   // of a stream: the newest entry, or stand-in, written
	sent     []streamID // of a stream: those of the chunk that was sent last, while it is not known to be written
	first    *streamID  // of a stream: the oldest entry that is no stand-in
	standIns []streamID // of a stream: that may have been written, see findGhosts
	grouped  bool       // of a stream: groups may have been written
	lacking  bool       // of a stream: an entry was pending that was not there to be claimed

	manner  Manner
	dropped int // expiries of hash fields that were left behind

	after func() // is called after each chunk; nil: nothing
}

// newTemp returns the way to a key over a temporary one.
func newTemp(through Through, manner Manner, key string) *temp {
	return &temp{through: through, manner: manner, key: manner.tempName(key)}
}

// ofRun is in the names of this process's temporary keys.
var ofRun = rand.Text()[:8]

// Stray reports whether a key is a temporary one that another process has left behind, or has in
// use.
func Stray(key string) bool {
	name, temporary := strings.CutPrefix(key, TempPrefix)
	return temporary && !strings.HasPrefix(name, ofRun+":")
}

// tempName returns a new name of a temporary key, which on a cluster is in the slot of key:
// otherwise it could not take its place.
func (m Manner) tempName(key string) string {
	name := TempPrefix + ofRun + ":" + rand.Text()
	if !m.Cluster {
		return name
	}
	return name + "{" + slot.Tag(slot.Of(m.Prefix+key)) + "}"
}

// write runs commands on the temporary key, one round trip, and counts bytes of
// payload. Any command's error is returned.
func (t *temp) write(ctx context.Context, bytes int64, cmds ...[]any) error {
	_, err := t.send(ctx, bytes, "EXISTS", cmds)
	return err
}

// send is write, and returns the answer to size, a command that takes the key.
// A temporary key that went away was evicted or flushed, and what comes after
// must not pass for the whole.
func (t *temp) send(ctx context.Context, bytes int64, size string, cmds [][]any) (n int64, err error) {
	_, n, err = t.ask(ctx, bytes, size, cmds)
	return n, err
}

// ask is send, and returns the answers to cmds too.
func (t *temp) ask(ctx context.Context, bytes int64, size string, cmds [][]any) (answers []*redis.Cmd, n int64, err error) {
	err = t.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		p := dst.Pipeline()
		var before *redis.IntCmd
		if t.began {
			before = p.Exists(ctx, t.key)
		}
		t.began = true
		answers = make([]*redis.Cmd, len(cmds))
		for i, c := range cmds {
			answers[i] = p.Do(ctx, c...)
		}
		after := p.Do(ctx, size, t.key)
		var alive *redis.BoolCmd
		if !t.live {
			alive = p.PExpire(ctx, t.key, tempLife)
		}
		if err := must(ctx, p); err != nil {
			return err
		}
		if before != nil && before.Val() == 0 && (t.length > 0 || t.live) || alive != nil && !alive.Val() {
			return fmt.Errorf("%w: temporary key is empty or gone", errChanged)
		}
		n, err = after.Int64()
		return err
	})
	if err == nil {
		t.bytes += bytes
		if t.after != nil {
			t.after()
		}
	}
	return answers, n, err
}

// grow is write for a chunk of elements; size is the command that counts them.
// A temporary key that shrank was evicted or flushed away in between and must
// not be renamed into place half.
func (t *temp) grow(ctx context.Context, bytes int64, size string, cmds ...[]any) error {
	n, err := t.send(ctx, bytes, size, cmds)
	if err != nil {
		return err
	}
	if n < t.length {
		return fmt.Errorf("%w: temporary key lost elements (eviction or flush on the target)", errChanged)
	}
	t.length = n
	return nil
}

// append is grow for values whose length tells what they have: it must become
// longer by more.
func (t *temp) append(ctx context.Context, bytes int64, size string, more int64, cmd []any) error {
	n, err := t.send(ctx, bytes, size, [][]any{cmd})
	if err != nil {
		return err
	}
	if n != t.length+more {
		return fmt.Errorf("%w: temporary key has another length", errChanged)
	}
	t.length = n
	return nil
}

// resume looks, after an error, how far the temporary key has come: the last
// chunk may have been written or not, or, of a stream, in part.
func (t *temp) resume(ctx context.Context, size string) error {
	if !t.began {
		return nil
	}
	return t.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		p := dst.Pipeline()
		length := p.Do(ctx, size, t.key)
		var newest *redis.Cmd
		if size == "XLEN" {
			newest = p.Do(ctx, "XREVRANGE", t.key, "+", "-", "COUNT", 1)
		}
		if err := must(ctx, p); err != nil {
			return err
		}
		n, err := length.Int64()
		if err != nil {
			return err
		}
		if n < t.length || t.grouped {
			return fmt.Errorf("%w: temporary key was lost or is past its entries", errChanged)
		}
		if newest != nil && n > 0 {
			es, err := parseEntries(newest.Val())
			if err != nil {
				return err
			}
			if err := t.reach(n-t.length, es); err != nil {
				return err
			}
		}
		t.began, t.length = n > 0, n
		return nil
	})
}

// reach finds how far a stream has come that got more entries by the last chunk, of which
// newest is the last. The entries of a chunk are commands each by itself: a server that has
// room for a small one again, or the slot, takes it after it has refused others before it.
// Then there is a hole, which nothing that comes behind fills.
func (t *temp) reach(more int64, newest []entry) error {
	last := t.last
	if more > 0 && more <= int64(len(t.sent)) {
		last = t.sent[more-1]
	}
	if more > int64(len(t.sent)) || len(newest) == 0 || newest[0].id != last {
		return fmt.Errorf("%w: temporary key has some entries of a chunk and lacks others before them", errChanged)
	}
	t.last, t.sent = last, nil
	return nil
}

// rename puts the value into place. RENAME comes before the expiry: one that is
// already past would delete the temporary key, RENAME would fail and the old
// value would stay.
//
// RENAME over a key frees what was there at once, which takes a second for a
// big one. With swap it gets another name in the same step, and is unlinked.
func (t *temp) rename(ctx context.Context, key string, expire int64) error {
	return t.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		old := t.manner.tempName(key)
		p := dst.TxPipeline()
		if t.swap {
			p.Rename(ctx, key, old) // refused when there is none
			p.PExpire(ctx, old, tempLife)
		}
		moved := p.Rename(ctx, t.key, key)
		expires := setExpiry(ctx, p, key, expire)
		if err := exec(ctx, p); err != nil {
			return err
		}
		if t.swap {
			_ = remove(ctx, dst, old) // or else its expiry does
		}
		if says(moved.Err(), "no such key") {
			return fmt.Errorf("%w: it was empty in the end", errChanged)
		}
		if err := errors.Join(moved.Err(), expires.Err()); err != nil {
			return discreet(err)
		}
		t.renamed = true
		return nil
	})
}

// expire gives a live key the expiry that it shall have.
func (t *temp) expire(ctx context.Context, ms int64) error {
	return t.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		p := dst.Pipeline()
		setExpiry(ctx, p, t.key, ms)
		return must(ctx, p)
	})
}

// setExpiry queues the command that gives key an expiry, or takes it away.
func setExpiry(ctx context.Context, p redis.Pipeliner, key string, expire int64) *redis.Cmd {
	return p.Do(ctx, expiryOf(key, expire)...)
}

// expiryOf is the command that gives key an expiry, or takes it away.
func expiryOf(key string, expire int64) []any {
	if expire == noExpiry {
		return []any{"PERSIST", key}
	}
	return []any{"PEXPIREAT", key, expire}
}

// drop removes what is left, also when ctx has ended. When it cannot, the key's
// expiry does.
func (t *temp) drop(ctx context.Context) {
	if !t.began || t.renamed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = t.through(ctx, func(ctx context.Context, dst *redis.Client) error { return remove(ctx, dst, t.key) })
}
