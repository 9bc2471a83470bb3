package elements

import (
	"sync"
	"sync/atomic"

	"github.com/crossfade/crossfade/router"
)

// Keys are the books of all big keys of the server that is copied from. The copy puts
// keys in and out; the proxy looks each key up whose elements a command changes, which
// costs nothing while there are none. Safe for concurrent use.
type Keys struct {
	side router.Side

	n    atomic.Int64
	held atomic.Int64
	mu   sync.RWMutex
	m    map[int]map[string]*Key // by the source's database
}

// NewKeys returns an empty collection for the keys of one side.
func NewKeys(side router.Side) *Keys { return &Keys{side: side, m: make(map[int]map[string]*Key)} }

// Any reports whether there is any key of a side.
func (k *Keys) Any(side router.Side) bool { return k != nil && k.side == side && k.n.Load() > 0 }

// Find returns a key's book, nil when nobody asks for one. db is the source's number, and
// the key is by its client's name, whichever side it is on.
func (k *Keys) Find(db int, key []byte) *Key {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.m[db][string(key)]
}

// Put opens a new book.
func (k *Keys) Put(db int, key string) *Key {
	book := &Key{held: &k.held, changed: make(map[string]int64)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m[db] == nil {
		k.m[db] = make(map[string]*Key)
	}
	if old := k.m[db][key]; old != nil {
		old.Debase()
	} else {
		k.n.Add(1)
	}
	k.m[db][key] = book
	return book
}

// Drop closes a book. Commands that are under way may still end in it.
func (k *Keys) Drop(db int, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.m[db][key]; old != nil {
		old.Debase()
		delete(k.m[db], key)
		k.n.Add(-1)
	}
}
