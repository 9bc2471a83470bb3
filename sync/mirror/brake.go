package mirror

import (
	"context"
	"sync"
)

// brake counts copies under way and can keep new ones from starting.
type brake struct {
	mu      sync.Mutex
	inside  int
	pulled  bool
	barred  bool // what From says may not be copied, see bar
	changed chan struct{}
}

func newBrake() *brake { return &brake{changed: make(chan struct{})} }

func (b *brake) wake() { // with mu held
	close(b.changed)
	b.changed = make(chan struct{})
}

// enter waits while the brake is pulled or barred.
func (b *brake) enter(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.mu.Lock()
		if !b.pulled && !b.barred {
			b.inside++
			b.mu.Unlock()
			return nil
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tryEnter is enter without the waiting.
func (b *brake) tryEnter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pulled || b.barred {
		return false
	}
	b.inside++
	return true
}

// leave ends a copy: its outcome is known, or the connection it was sent on is
// gone from the server.
func (b *brake) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inside--
	if b.inside == 0 {
		b.wake()
	}
}

// pull keeps new copies out and waits for those inside.
func (b *brake) pull(ctx context.Context) error {
	for {
		b.mu.Lock()
		b.pulled = true
		inside, changed := b.inside, b.changed
		b.mu.Unlock()
		if inside == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// release lets copies start again.
func (b *brake) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pulled = false
	b.wake()
}

// bar keeps new copies out, or lets them in again, and waits for nobody. Copies are
// barred while From may have come back without what it had: what is read there then must
// not be written.
func (b *brake) bar(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.barred = on
	b.wake()
}
