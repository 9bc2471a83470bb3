// Package store keeps a migration's record where a restart will find it.
// It owns the file beside the sidecar and the control keys on the two servers.
// It never looks into a record: it compares tokens and sequence numbers only.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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

// Condition looks at the server through tx, and at the entry that is there (none: the
// zero one). Its error is why nothing is to be written.
type Condition func(ctx context.Context, tx *redis.Tx, there Entry) error

// SaveIf is Save under a condition that is asked for on the connection that then
// writes: what it finds holds for the write, for a server that restarts in between
// has ended that connection.
func SaveIf(ctx context.Context, c *redis.Client, key string, e Entry, ok Condition) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	err = c.Watch(ctx, func(tx *redis.Tx) error {
		old, err := tx.Get(ctx, key).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		var there Entry
		if err == nil {
			if err := json.Unmarshal(old, &there); err != nil {
				return fmt.Errorf("%w: it does not hold a record of ours: %w", ErrOther, err)
			}
			if there.ID != e.ID {
				return ErrOther
			}
			if there.After(e) {
				return ErrSuperseded
			}
		}
		if ok != nil {
			if err := ok(ctx, tx, there); err != nil {
				return err
			}
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, key, text, 0)
			return nil
		})
		return err
	}, key)
	if errors.Is(err, redis.TxFailedErr) {
		err = ErrSuperseded
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	return nil
}
