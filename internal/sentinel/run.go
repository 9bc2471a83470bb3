package sentinel

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// switched is where sentinels tell that a failover is through: NAME OLD-IP OLD-PORT
// NEW-IP NEW-PORT.
const switched = "+switch-master"

// Run follows the master until ctx ends: it hears the sentinels, and asks them and the
// master now and then. It returns when its goroutines have ended; the error is nil.
func (f *Follower) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	told := make(chan struct{}, 1)
	for _, s := range f.sentinels {
		wg.Go(func() { f.listen(ctx, s, told) })
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		f.check(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-told:
		}
	}
}

// listen passes on that a sentinel tells of a failover. The subscription is made again
// when it was lost; what was missed meanwhile is found by asking.
func (f *Follower) listen(ctx context.Context, s watcher, told chan<- struct{}) {
	sub := s.client.Subscribe(ctx, switched)
	defer func() { _ = sub.Close() }()
	messages := sub.Channel()
	for {
		select {
		case <-ctx.Done():
			return
		case m, open := <-messages:
			if !open {
				return
			}
			if name, _, _ := strings.Cut(m.Payload, " "); name != f.Name() {
				continue
			}
			select {
			case told <- struct{}{}:
			default:
			}
		}
	}
}

// check looks whether the master is still where it was, and still one.
func (f *Follower) check(ctx context.Context) {
	before := f.Present()
	address, err := f.look(ctx)
	if err != nil && ctx.Err() == nil {
		f.complain("the master is not known", before, err)
	}
	if err != nil || address != before {
		return // a new one has just been asked
	}
	f.mu.Lock()
	witness := f.witness
	f.mu.Unlock()
	if witness == nil {
		return
	}
	// One that does not answer may come back, and its connections tell their owners. It
	// is not waited for: what the sentinels say is not to be late.
	bounded, cancel := context.WithTimeout(ctx, min(f.timeout, lookEvery))
	defer cancel()
	if err := isMaster(bounded, witness); errors.As(err, new(demoted)) {
		f.settle(address, "", nil, err.Error())
	}
}
