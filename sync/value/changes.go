package value

import (
	"context"

	"github.com/crossfade/crossfade/internal/elements"
)

// Changes is a set of kinds of changes of one key, as events name them. What an
// event says is not believed to be all that happened to the value; it is believed
// that nothing else happened.
type Changes uint16

// The kinds.
const (
	Appended   Changes = 1 << iota // at the tail: RPUSH, APPEND, XADD
	Prepended                      // at the head: LPUSH
	HeadPopped                     // LPOP and those like it
	TailPopped                     // RPOP and those like it
	Trimmed                        // the oldest entries of a stream
	Deleted                        // entries of a stream
	Grouped                        // of a stream's groups, which includes all that has no event
	Element                        // of elements of a hash, set or sorted set
	Remade                         // anything else
	Gone                           // with Remade: there may be no such key any more

	// Again is no kind: the event was told before, in the other of its two forms.
	Again
)

// ChangeOf returns what an event's name stands for. An expiry that was set or
// taken away is 0: it is no part of the value, and copied each time.
func ChangeOf(event []byte) Changes {
	switch string(event) {
	case "rpush", "append", "xadd":
		return Appended
	case "lpush":
		return Prepended
	case "lpop":
		return HeadPopped
	case "rpop":
		return TailPopped
	case "xtrim":
		return Trimmed
	case "xdel":
		return Deleted
	case "xgroup-create", "xgroup-createconsumer", "xgroup-delconsumer", "xgroup-destroy", "xgroup-setid":
		return Grouped
	case "hset", "hdel", "hincrby", "hincrbyfloat", "sadd", "srem", "zadd", "zincr", "zrem":
		return Element
	case "expire", "persist":
		return 0
	case "del", "expired", "evicted", "rename_from", "move_from":
		return Remade | Gone
	}
	return Remade
}

// only reports whether c has no kind but those of some, each of which may be
// there.
func (c Changes) only(some Changes) bool { return c&^some == 0 }

// Watch tells what happened to one key on the source.
type Watch interface {
	// Begin forgets what came until now.
	Begin()
	// Known returns the kinds that came since Begin, and how many changes.
	Known() (Changes, uint64)
	// Seen is Known, after all has come that the source ran before the call.
	Seen(ctx context.Context) (Changes, uint64, error)
	// Settle forgets what came until now, unless more came than n changes.
	Settle(n uint64)
	// Elements returns the key's book, in which changes of elements are counted, or nil
	// when nobody counts them.
	Elements() *elements.Key
}
