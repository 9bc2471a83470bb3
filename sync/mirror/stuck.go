package mirror

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/sync/value"
)

// Some keys cannot be copied whatever is tried: their values are of a kind that To
// does not have. They are kept apart, so that nobody waits for them and nobody takes
// the copy for whole. Each is tried again when it changes, and now and then.

// notes are keys of one lane with a word on each. Their number is bounded.
type notes struct {
	n atomic.Int32 // len(words), for those who only look

	mu    sync.Mutex
	words map[string]string
}

// notedMost is how many keys are noted, per lane. More that cannot be copied are tried
// again and again.
const notedMost = 10_000

// add notes keys and reports whether there was room for all.
func (n *notes) add(key, word string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.words == nil {
		n.words = make(map[string]string)
	}
	if _, there := n.words[key]; !there && len(n.words) >= notedMost {
		return false
	}
	n.words[key] = word
	n.n.Store(int32(len(n.words)))
	return true
}

// forget drops keys.
func (n *notes) forget(keys ...string) {
	if n.n.Load() == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range keys {
		delete(n.words, k)
	}
	n.n.Store(int32(len(n.words)))
}

func (n *notes) len() int { return int(n.n.Load()) }

// keys returns all of them.
func (n *notes) keys() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]string, 0, len(n.words))
	for k := range n.words {
		out = append(out, k)
	}
	return out
}

// StuckKey is a key that cannot be copied.
type StuckKey struct {
	Database int // of the source
	Key      string
	Why      string
}

// stuckListed is how many of them a Progress names, per database.
const stuckListed = 5

// stuckEvery is how often they are tried again.
const stuckEvery = time.Minute

// impossible reports whether err says that a key cannot be copied whatever is tried,
// and why.
func impossible(err error) (why string, is bool) {
	switch {
	case errors.Is(err, value.ErrFieldExpiry):
		return "its fields have expiries of their own, which the other server does not know (see sync.field_expiries)", true
	case errors.Is(err, value.ErrType):
		return "values of its type are copied by DUMP and RESTORE only, and one of the servers refuses that", true
	}
	return "", false
}

// setAside takes a key that is in hand out of it, if it cannot be copied.
func (l *lane) setAside(key string, err error) bool {
	why, is := impossible(err)
	if !is || !l.stuck.add(key, why) {
		return false
	}
	l.dirty.Done([]string{key})
	return true
}

// retryStuck has keys that could not be copied tried again: some of them, where so many
// marks might be too many.
func (l *lane) retryStuck() {
	keys := l.stuck.keys()
	if most := l.m.cfg.DirtyLimit / 2; most > 0 {
		keys = keys[:min(len(keys), most)]
	}
	l.dirty.MarkAll(keys)
}

// scanStuck has all of them tried again: one may have gone, of which To has nothing either.
func (l *lane) scanStuck(ctx context.Context) error {
	var under sync.WaitGroup
	defer under.Wait()
	return l.hand(ctx, l.stuck.keys(), &under, func() chan<- task { return l.pages })
}

// stuckKeys names some, and says how many there are.
func (l *lane) stuckKeys() (some []StuckKey, n int) {
	l.stuck.mu.Lock()
	defer l.stuck.mu.Unlock()
	for k, why := range l.stuck.words {
		some = append(some, StuckKey{Database: l.db, Key: k, Why: why})
	}
	slices.SortFunc(some, func(a, b StuckKey) int { return cmp.Or(strings.Compare(a.Key, b.Key)) })
	return some[:min(len(some), stuckListed)], len(l.stuck.words)
}
