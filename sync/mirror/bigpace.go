package mirror

import (
	"context"
	"errors"
)

// A big key that a scan has brought goes as fast as scans may, and is in hand meanwhile:
// nobody else copies it, whatever becomes of it. So from the moment on at which a client
// changes it, it waits for nothing any more.

// errSpurred ends the waiting of a key that a client has changed.
var errSpurred = errors.New("a client has changed the key")

// setPaced says whether k goes as fast as scans may.
func (s *bigKeys) setPaced(k *bigKey, on bool) { // with mu held
	switch {
	case on == k.paced:
		return
	case on:
		s.slow.Add(1)
		k.billed = k.copy.Account().Bytes
	default:
		s.slow.Add(-1)
		if k.spur != nil {
			k.spur(errSpurred)
		}
	}
	k.paced = on
}

// hasten says that keys were marked. It is called behind that: a key that is taken over
// meanwhile is found changed there, or here.
func (s *bigKeys) hasten(keys []string) {
	if s.slow.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if k := s.known[key]; k != nil && k.paced {
			s.setPaced(k, false)
			s.wake()
		}
	}
}

// paces returns the keys that wait, or may have to, because scans do: no client's change
// waits with them.
func (s *bigKeys) paces() map[string]bool {
	if s.slow.Load() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make(map[string]bool)
	for _, k := range s.known {
		if k.paced && k.with && !k.failed {
			keys[k.key] = true
		}
	}
	return keys
}

// await waits until the next step of k may be done, behind what those before it have
// brought: a step does not know its bytes before it is over. The error is ctx's cause.
func (k *bigKey) await(ctx context.Context) error {
	s, throttle := k.of, k.of.l.m.throttle
	s.mu.Lock()
	if !k.paced || s.l.m.ctx.Err() != nil { // nor does what is left to be taken away wait at the end
		s.mu.Unlock()
		return nil
	}
	bytes := k.copy.Account().Bytes
	throttle.Spent(bytes - k.billed)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k.billed, k.spur = bytes, cancel
	s.mu.Unlock()
	err := throttle.Wait(ctx, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	k.spur = nil
	if errors.Is(err, errSpurred) {
		return nil
	}
	return err
}

// compared is the name under which a comparison's context has its *bigKey.
type compared struct{}

// paceBig has the comparing of a big key go as fast as its copy may.
func paceBig(ctx context.Context, bytes int64) error {
	k := ctx.Value(compared{}).(*bigKey)
	if k.isPaced() {
		k.of.l.m.throttle.Spent(bytes)
	}
	return k.await(ctx)
}

func (k *bigKey) isPaced() bool {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	return k.paced
}
