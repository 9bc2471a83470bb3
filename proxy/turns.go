package proxy

import (
	"slices"
	"strconv"
	"sync"
	"time"
)

// turnPatience is how long who waits in line lets others go first: one whose connection
// hangs must not keep all others.
const turnPatience = 10 * time.Second

// turns keep the order of those who wait in a server for the same keys. When they have
// to begin anew, on another server, each goes only when all that came before it wait
// there already. The zero value is ready. Safe for concurrent use; it calls nobody.
type turns struct {
	mu    sync.Mutex
	last  uint64
	lines map[string][]*turn // by database and key, who came first at the front
}

// turn is the place of one command that blocks. It is kept by whoever sent it, and the
// server's other sessions see it while it stands in line.
type turn struct {
	keys  []string
	place uint64        // the smaller, the earlier; as it was when it was first sent
	in    bool          // it stands in line
	over  bool          // it will not come again
	free  chan struct{} // closed when nobody is before it; nil when it does not wait for that
}

// take returns a place behind all others. Keys may be given twice.
func (t *turns) take(keys []string) *turn {
	if len(keys) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	x := &turn{keys: keys, place: t.last}
	if t.busy(keys) { // those who begin anew came before it
		t.insert(x)
	}
	return x
}

func (t *turns) busy(keys []string) bool {
	return len(t.lines) > 0 && slices.ContainsFunc(keys, func(k string) bool { return len(t.lines[k]) > 0 })
}

// join puts x in line, at its place.
func (t *turns) join(x *turn) {
	if x == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !x.in && !x.over {
		t.insert(x)
	}
}

func (t *turns) insert(x *turn) {
	if t.lines == nil {
		t.lines = make(map[string][]*turn)
	}
	x.in = true
	for _, k := range x.keys {
		line := t.lines[k]
		at, _ := slices.BinarySearchFunc(line, x.place, func(other *turn, place uint64) int {
			if other.place < place {
				return -1
			}
			return 1
		})
		t.lines[k] = slices.Insert(line, at, x)
	}
}

// await returns when nobody in line is before x, or after turnPatience. False is that
// stop was closed before.
func (t *turns) await(x *turn, stop <-chan struct{}) bool {
	t.mu.Lock()
	if !x.in || t.first(x) {
		t.mu.Unlock()
		return true
	}
	free := make(chan struct{})
	x.free = free
	t.mu.Unlock()
	timer := time.NewTimer(turnPatience)
	defer timer.Stop()
	select {
	case <-free:
		return true
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}

// stands reports whether x is in line.
func (t *turns) stands(x *turn) bool {
	if x == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return x.in
}

func (t *turns) first(x *turn) bool {
	return !slices.ContainsFunc(x.keys, func(k string) bool { return t.lines[k][0].place < x.place })
}

// pass takes x out of the line: it waits in the server again, or has been answered.
func (t *turns) pass(x *turn) {
	if x == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(x)
}

// quit is pass for good.
func (t *turns) quit(x *turn) {
	if x == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	x.over = true
	t.remove(x)
}

func (t *turns) remove(x *turn) {
	if !x.in {
		return
	}
	x.in, x.free = false, nil
	for _, k := range x.keys {
		line := slices.DeleteFunc(t.lines[k], func(other *turn) bool { return other == x })
		if len(line) == 0 {
			delete(t.lines, k)
			continue
		}
		t.lines[k] = line
		if next := line[0]; next.free != nil && t.first(next) {
			close(next.free)
			next.free = nil
		}
	}
}

// awaited returns what a command that blocks waits for, where who came first is served
// first. Whoever reads a stream without a group is served with all others.
func awaited(sp *spec, args [][]byte, db int) []string {
	if sp.name == "xread" {
		return nil
	}
	keys := sp.keysIn(args, anyUse)
	if sp.name == "blmove" || sp.name == "brpoplpush" { // the other one is where it goes
		keys = keys[:min(len(keys), 1)]
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for i, k := range keys {
		keys[i] = strconv.Itoa(db) + ":" + k
	}
	return keys
}
