package mirror

import (
	"testing"

	"github.com/crossfade/crossfade/sync/dirty"
)

// TestOwedUntilSettled has the copy of a big key fail, and the key settled by somebody
// else than those who copy big keys: no scan may wait for it then.
func TestOwedUntilSettled(t *testing.T) {
	for name, settle := range map[string]func(*lane, string){
		"copied by a worker": func(l *lane, _ string) { l.copied(l.dirty.TakeNow(1)) },
		"found equal":        func(l *lane, _ string) { l.dirty.Done(l.dirty.TakeNow(1)) },
		"not of interest":    func(l *lane, _ string) { l.dirty.Forget() },
		"copied, and changed again": func(l *lane, k string) {
			keys := l.dirty.TakeNow(1)
			l.dirty.Mark(k)
			l.copied(keys)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Mirror{order: []int{1}}
			l := &lane{m: m, db: 0, dirty: dirty.New(0), changed: make(chan struct{})}
			l.big = newBigKeys(l)
			l.big.known["big"] = &bigKey{of: l.big, key: "big", owed: true}
			l.big.n.Store(1)
			l.dirty.Mark("big")
			if !l.big.owes() || l.scanComplete() {
				t.Error("nobody waits for a key that is queued again")
			}
			settle(l, "big")
			if l.big.owes() || !l.scanComplete() {
				t.Error("a key is waited for that nobody copies any more")
			}
		})
	}
}
