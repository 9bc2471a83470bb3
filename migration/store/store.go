// Package store keeps a migration's record where a restart will find it.
// It owns the file beside the sidecar and the control keys on the two servers.
// It never looks into a record: it compares tokens and sequence numbers only.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Entry is a record with its place in the order of all records of a migration.
// A new coordinator raises Token, each transition raises Seq.
type Entry struct {
	ID    string          `json:"id"` // of the migration
	Token uint64          `json:"token"`
	Seq   uint64          `json:"seq"`
	Data  json.RawMessage `json:"data"`
}

// After reports whether e was written later than o.
func (e Entry) After(o Entry) bool {
	if e.Token != o.Token {
		return e.Token > o.Token
	}
	return e.Seq > o.Seq
}

// ErrSuperseded means that a newer coordinator has written: stop at once.
var ErrSuperseded = errors.New("a newer coordinator has taken over this migration")

// ErrOther means that the key belongs to another migration.
var ErrOther = errors.New("the record of another migration is there")

// The control keys, in database 0 of a server.
const (
	RecordKey  = "crossfade:record"  // on the server that is entered: the state of the migration
	JournalKey = "crossfade:journal" // on the server that is left: the point of no return
	DrainedKey = "crossfade:drained" // on the server that is entered: the switch whose copies are all there
	FenceKey   = "crossfade:fence"   // on the server that is left: the token of whoever may fence it
)

// Load reads the entry at key; ok is false when there is none.
func Load(ctx context.Context, c *redis.Client, key string) (e Entry, ok bool, err error) {
	text, err := c.Get(ctx, key).Bytes()
	if errors.Is(err, redis.Nil) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("reading %s: %w", key, err)
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return Entry{}, false, fmt.Errorf("reading %s: it does not hold a record of ours: %w", key, err)
	}
	return e, true, nil
}

// Save writes e at key unless something newer, or another migration's record,
// is there: a compare-and-set by WATCH, on the server (ErrSuperseded, ErrOther).
// Saving the same entry twice is no error, so that a lost answer can be repeated.
func Save(ctx context.Context, c *redis.Client, key string, e Entry) error {
	return SaveIf(ctx, c, key, e, nil)
}

// Condition has the server asked, by what it queues in p, and returns what looks at the
// answers, and at the entry that is there (none: the zero one). Where these leave a
// question, it may ask c. Its error is why nothing is to be written.
type Condition func(ctx context.Context, p redis.Pipeliner) (holds func(c Asker, there Entry) error)

// Asker is the connection that is to write.
type Asker interface {
	redis.Cmdable
	Do(ctx context.Context, args ...any) *redis.Cmd
	Wait(ctx context.Context, replicas int, patience time.Duration) *redis.IntCmd
}

// SaveIf is Save under a condition that is asked for on the connection that then
// writes: what it finds holds for the write, for a server that restarts in between
// has ended that connection. It takes two round trips.
func SaveIf(ctx context.Context, c *redis.Client, key string, e Entry, ok Condition) error {
	return save(ctx, c, key, e, ok, nil)
}

// SaveReplicated is SaveIf that then waits until each of the server's replicas has what
// was written, and so all that the server ran before; at most for patience. An error
// that is ErrBehind means that it is written, and that some replica has not said so.
// Where there are replicas it takes a round trip more.
func SaveReplicated(ctx context.Context, c *redis.Client, key string, e Entry, ok Condition, patience time.Duration) error {
	var r replicas
	return save(ctx, c, key, e, r.counted(ok), func(tx *redis.Tx) error { return r.await(ctx, tx, patience) })
}

// replicas are a server's, as it says before it is written to.
type replicas struct{ info *redis.StringCmd }

// counted is ok, with the replicas asked for at the same time.
func (r *replicas) counted(ok Condition) Condition {
	return func(ctx context.Context, p redis.Pipeliner) func(Asker, Entry) error {
		r.info = p.Info(ctx, "replication")
		if ok == nil {
			return func(Asker, Entry) error { return nil }
		}
		return ok(ctx, p)
	}
}

// online is how many there are. An error means that the server does not tell.
func (r *replicas) online() (int, error) {
	text, err := r.info.Result()
	return strings.Count(text, ",state=online,"), err
}

// await waits until they have what was written on c.
func (r *replicas) await(ctx context.Context, c Asker, patience time.Duration) error {
	n, err := r.online()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrBehind, err)
	case n == 0:
		return nil
	}
	got, err := c.Wait(ctx, n, max(patience, time.Millisecond)).Result() // 0 would be for ever
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrBehind, err)
	case int(got) < n:
		return fmt.Errorf("%w: %d of %d within %v", ErrBehind, int64(n)-got, n, patience)
	}
	return nil
}

// ErrBehind means that replicas lag behind, or that they cannot be asked.
var ErrBehind = errors.New("replicas may not have it yet")

func save(ctx context.Context, c *redis.Client, key string, e Entry, ok Condition, after func(*redis.Tx) error) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	err = c.Watch(ctx, func(tx *redis.Tx) error {
		if err := look(ctx, tx, key, e, ok); err != nil {
			// WATCH was one of many commands, so that go-redis does not know of it.
			_ = tx.Unwatch(context.WithoutCancel(ctx)).Err()
			return err
		}
		_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, key, text, 0)
			return nil
		})
		if err == nil && after != nil {
			err = after(tx)
		}
		return err
	})
	if errors.Is(err, redis.TxFailedErr) {
		err = ErrSuperseded
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	return nil
}

// Answered returns the error of a pipeline that is none of its commands': each of those
// has its own. A connection that a server does not let in is such a one.
func Answered(cmds []redis.Cmder, err error) error {
	for _, c := range cmds {
		if c.Err() != nil {
			return nil
		}
	}
	return err
}

// look watches the key and returns why e may not be written there, all in one round trip.
func look(ctx context.Context, c Asker, key string, e Entry, ok Condition) error {
	p := c.Pipeline()
	watched, old := p.Do(ctx, "WATCH", key), p.Get(ctx, key)
	var holds func(Asker, Entry) error
	if ok != nil {
		holds = ok(ctx, p)
	}
	if err := Answered(p.Exec(ctx)); err != nil {
		return err
	}
	if err := watched.Err(); err != nil {
		return err
	}
	var there Entry
	switch value, err := old.Bytes(); {
	case errors.Is(err, redis.Nil):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(value, &there); err != nil {
			return fmt.Errorf("%w: it does not hold a record of ours: %w", ErrOther, err)
		}
		if there.ID != e.ID {
			return ErrOther
		}
		if there.After(e) {
			return ErrSuperseded
		}
	}
	if holds != nil {
		return holds(c, there)
	}
	return nil
}
