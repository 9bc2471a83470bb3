package mirror

import (
	"context"
	"sync"
	"time"
)

// pace has changes gathered where there is no end of them: a job for each would keep both
// servers, and the processors that clients need, busy with asking. Jobs that come now and
// then are never late; of those that follow each other there is one every gatherFor, with
// all that has changed since the last. The zero value is ready. Safe for concurrent use.
type pace struct {
	mu      sync.Mutex
	next    time.Time // when the next job would be due, had each come as late as it may
	gathers bool      // somebody waits for the next job to be due
	hurries int
	hurry   chan struct{} // closed when somebody begins to hurry; made by gather
}

const (
	gatherFor = 3 * time.Millisecond
	// gatherAfter is how many jobs may be early before the others are gathered for.
	gatherAfter = 8
)

// wait returns how long the next job has to gather yet; 0: it is due.
func (p *pace) wait(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hurries > 0 {
		return 0
	}
	return max(0, p.next.Add(-gatherAfter*gatherFor).Sub(now))
}

// took notes that a job was taken.
func (p *pace) took(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(gatherFor)
	if most := now.Add((gatherAfter + 1) * gatherFor); p.next.After(most) { // jobs that were due for another reason
		p.next = most
	}
}

// gather waits for d, until somebody hurries, or ctx ends. False is that somebody else
// does so already: one is enough.
func (p *pace) gather(ctx context.Context, d time.Duration) bool {
	p.mu.Lock()
	if p.gathers {
		p.mu.Unlock()
		return false
	}
	if p.hurries > 0 {
		p.mu.Unlock()
		return true
	}
	p.gathers = true
	hurry := make(chan struct{})
	p.hurry = hurry
	p.mu.Unlock()
	timer := time.NewTimer(d)
	select {
	case <-timer.C:
	case <-hurry:
	case <-ctx.Done():
	}
	timer.Stop()
	p.mu.Lock()
	p.gathers, p.hurry = false, nil
	p.mu.Unlock()
	return true
}

// press has all jobs due until relax is called as often.
func (p *pace) press() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hurries++; p.hurry != nil {
		close(p.hurry)
		p.hurry = nil
	}
}

func (p *pace) relax() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hurries--
}
