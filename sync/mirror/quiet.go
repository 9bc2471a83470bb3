package mirror

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

// Silent commands (see foreign.go) change streams that have consumer groups, and vector
// sets. When From has run more of them than went through the proxy, nobody can say on
// which keys: a client past the proxy may have said them, or another sidecar's, or a script
// of anybody's. So all such keys are copied again, and it does not matter whose they were.
//
// Which keys those are is found by one look through the database, when it is first asked
// for, and by events from then on: a stream gets a group, and a name a stream, with an
// event. A vector set comes into being without one, so those are looked for each time.

const (
	quietMost = 100_000 // keys that are known of one database
	freshMost = 4 * quietMost
	quietLot  = 500 // keys that From is asked about in one round trip
	quietTurn = 64  // keys that are copied again with each heartbeat, where nobody is in a hurry
)

// quietKeys are those of one lane. Only one goroutine looks or asks at a time: see debts.
type quietKeys struct {
	l  *lane
	on atomic.Bool // what events tell is kept

	mu    sync.Mutex
	era   int  // raised when an event may have been missed
	many  bool // more than can be known, when they were counted last
	whole bool // known and fresh have all
	known map[string]struct{}
	fresh map[string]struct{} // events say that they may be some, nobody has asked yet
	due   []string            // to be copied again, with the next heartbeats
	owed  map[string]struct{} // the same keys
}

// founds reports whether an event may be how a key came to be a stream with a group.
func founds(event []byte) bool {
	switch string(event) {
	case "restore", "copy_to", "rename_to", "move_to":
		return true
	}
	return strings.HasPrefix(string(event), "xgroup-")
}

// heard takes keys that may be some now.
func (q *quietKeys) heard(keys ...string) {
	if !q.on.Load() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, k := range keys {
		if q.fresh != nil && !strings.HasPrefix(k, KeyPrefix) {
			q.fresh[k] = struct{}{}
		}
	}
	if len(q.fresh) > freshMost {
		q.drop()
	}
}

// piled reports whether so much was heard that it is to be asked about soon.
func (q *quietKeys) piled() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.fresh) > freshMost/8
}

// forget says that events may have been missed.
func (q *quietKeys) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.drop()
}

func (q *quietKeys) drop() { // with mu held
	q.era++
	q.on.Store(false)
	q.whole, q.known, q.fresh = false, nil, nil
}

// complete reports whether no look is needed, or of any use.
func (q *quietKeys) complete() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.whole || q.many
}

// owes reports which of keys may be due to be copied again. some says that those that are
// known are about to be.
func (q *quietKeys) owes(keys []string, some bool) []bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	owed := make([]bool, len(keys))
	for i, k := range keys {
		_, owed[i] = q.owed[k]
		if some && !owed[i] {
			_, known := q.known[k]
			_, fresh := q.fresh[k]
			owed[i] = known || fresh || !q.whole
		}
	}
	return owed
}

// look finds the streams, unless they are known.
func (q *quietKeys) look(ctx context.Context) error {
	q.mu.Lock()
	if q.whole {
		q.mu.Unlock()
		return nil
	}
	q.drop()
	era := q.era
	q.known, q.fresh = make(map[string]struct{}), make(map[string]struct{})
	q.mu.Unlock()
	q.on.Store(true) // before the first page: what comes into being behind it is heard of
	err := q.each(ctx, "stream", func(keys []string) error {
		if q.piled() {
			if err := q.siftAll(ctx, q.heardOf(), era); err != nil {
				return err
			}
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.era != era {
			return errMissed
		}
		for _, k := range keys {
			q.known[k] = struct{}{}
		}
		if len(q.known) > quietMost {
			return errMany
		}
		return nil
	})
	q.mu.Lock()
	defer q.mu.Unlock()
	q.many = errors.Is(err, errMany)
	switch {
	case q.era != era:
		return errors.Join(err, errMissed)
	case err != nil:
		q.drop()
		return err
	}
	q.whole = true
	return nil
}

var (
	errMissed = errors.New("changes may have been missed meanwhile")
	errMany   = fmt.Errorf("more than %d streams with groups are too many to be copied again one by one", quietMost)
)

// each calls found with the keys of From's database that are of a type, those that matter.
func (q *quietKeys) each(ctx context.Context, kind string, found func([]string) error) error {
	l := q.l
	if !l.m.cfg.Only.Type(kind) {
		return nil
	}
	p := l.scanned(l.from)
	p.kind = kind
	// Not by the limits of what is copied: those may be so low, or a pause, that no switch
	// would ever come about. Half of the time is left to others.
	began := time.Now()
	p.looked = func(int) {
		if !l.m.bigs.hurried() {
			sleep(ctx, time.Since(began))
		}
		began = time.Now()
	}
	err := p.each(ctx, l.src(), func(keys []string) error {
		for len(keys) > 0 {
			n := min(len(keys), quietLot)
			yes, err := q.ask(ctx, kind, keys[:n])
			if err != nil {
				return err
			}
			if err := found(yes); err != nil {
				return err
			}
			keys = keys[n:]
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for what silent commands may have changed in database %s of %s: %w", l.from, l.m.cfg.From, err)
	}
	return nil
}

// ask returns those of keys that are of the type now and, being streams, have a group.
// CLIENT TRACKING does not say when a stream gets one: there all streams are returned.
func (q *quietKeys) ask(ctx context.Context, kind string, keys []string) (yes []string, err error) {
	pipe := q.l.src().Pipeline()
	kinds := make([]*redis.StatusCmd, len(keys))
	for i, k := range keys {
		kinds[i] = pipe.Type(ctx, k)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	for i, k := range keys {
		if kinds[i].Val() == kind {
			yes = append(yes, k)
		}
	}
	if kind != "stream" || len(yes) == 0 || q.l.m.isTracking() {
		return yes, nil
	}
	pipe = q.l.src().Pipeline()
	groups := make([]*redis.Cmd, len(yes))
	for i, k := range yes {
		groups[i] = pipe.Do(ctx, "XINFO", "GROUPS", k)
	}
	if _, err := pipe.Exec(ctx); err != nil && value.Unknown(err) {
		return nil, err
	}
	with := yes[:0]
	for i, k := range yes {
		if list, err := groups[i].Slice(); err != nil || len(list) > 0 { // whoever does not say may have some
			with = append(with, k)
		}
	}
	return with, nil
}

// sift asks about what events have told of, so that it does not pile up (with CLIENT
// TRACKING that is every write), and about some that are known: they may be gone.
func (q *quietKeys) sift(ctx context.Context) error {
	q.mu.Lock()
	era, whole := q.era, q.whole
	var keys []string
	for k := range q.known {
		if len(keys) == quietTurn {
			break
		}
		keys = append(keys, k)
	}
	q.mu.Unlock()
	if !whole {
		return nil
	}
	return q.siftAll(ctx, append(keys, q.heardOf()...), era)
}

// heardOf returns what events have told of and nobody has asked about yet.
func (q *quietKeys) heardOf() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.fresh))
}

// siftAll asks about keys, and leaves the rest for later once somebody is in a hurry.
func (q *quietKeys) siftAll(ctx context.Context, keys []string, era int) error {
	for lot := range slices.Chunk(keys, quietLot) {
		if q.l.m.bigs.hurried() {
			return nil
		}
		if err := q.siftSome(ctx, lot, era); err != nil {
			return err
		}
	}
	return nil
}

func (q *quietKeys) siftSome(ctx context.Context, keys []string, era int) error {
	q.mu.Lock()
	if q.era != era {
		q.mu.Unlock()
		return nil
	}
	for _, k := range keys { // what is heard of one from here on is newer than the answer
		delete(q.fresh, k)
		delete(q.known, k)
	}
	q.mu.Unlock()
	yes, err := q.ask(ctx, "stream", keys)
	if err != nil {
		yes = keys // as far as anybody knows
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.era == era {
		for _, k := range yes {
			q.known[k] = struct{}{}
		}
		if len(q.known) > quietMost {
			q.drop()
			q.many = true
		}
	}
	return err
}

// owe has keys of a type copied again, with the next heartbeats or sooner.
func (q *quietKeys) owe(ctx context.Context, kind string) error {
	if kind == "vectorset" {
		return q.each(ctx, kind, func(keys []string) error {
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.put(slices.Values(keys))
		})
	}
	q.mu.Lock()
	many := q.many
	q.mu.Unlock()
	if many && q.l.m.bigs.hurried() {
		return errMany // who waits need not wait for that once more
	}
	if err := q.look(ctx); err != nil {
		return err
	}
	if q.piled() { // most of what was heard of may be no stream at all
		q.mu.Lock()
		era := q.era
		q.mu.Unlock()
		if err := q.siftAll(ctx, q.heardOf(), era); err != nil {
			return err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.whole {
		return errMissed
	}
	if err := q.put(maps.Keys(q.known)); err != nil {
		return err
	}
	return q.put(maps.Keys(q.fresh))
}

// put says that keys are due. Of very many it remembers some: a scan of everything is due then,
// or all of them again.
func (q *quietKeys) put(keys iter.Seq[string]) error { // with mu held
	if q.owed == nil {
		q.owed = make(map[string]struct{})
	}
	for k := range keys {
		if _, there := q.owed[k]; there {
			continue
		}
		if len(q.due) >= freshMost {
			return errMany
		}
		q.owed[k] = struct{}{}
		q.due = append(q.due, k)
	}
	return nil
}

// pay marks up to most keys that are due, and returns how many are left.
func (q *quietKeys) pay(most int) (left int) {
	q.mu.Lock()
	n := min(most, len(q.due))
	keys := q.due[:n]
	q.mu.Unlock()
	q.l.m.Silent(q.l.db, keys...)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, k := range keys {
		delete(q.owed, k)
	}
	if q.due = q.due[n:]; len(q.due) == 0 { // only who has the turn takes any away
		q.due, q.owed = nil, nil
	}
	return len(q.due)
}
