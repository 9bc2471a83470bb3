package mirror

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Jobs that come now and then are due at once, those that follow each other are gathered.
func TestPace(t *testing.T) {
	var p pace
	now := time.Now()
	// jobs is how many there are in d, when the next comes so long after each, and how
	// late they were at most.
	jobs := func(every, d time.Duration) (n int, late time.Duration) {
		for until := now.Add(d); now.Before(until); now = now.Add(every) {
			wait := p.wait(now)
			late = max(late, wait)
			now = now.Add(wait)
			if p.wait(now) > 0 {
				t.Fatal("it is not due when it has waited")
			}
			p.took(now)
			n++
		}
		return n, late
	}
	if n, late := jobs(4*time.Millisecond, time.Second); n != 250 || late > 0 {
		t.Errorf("%d jobs of 250, up to %v late", n, late)
	}
	if n, late := jobs(100*time.Microsecond, time.Second); n > int(time.Second/gatherFor)+gatherAfter+2 || n < int(time.Second/gatherFor) || late > gatherFor {
		t.Errorf("%d jobs in a second, up to %v late", n, late)
	}
	p.press()
	if n, late := jobs(time.Millisecond, 100*time.Millisecond); n != 100 || late > 0 {
		t.Errorf("in a hurry: %d jobs of 100, up to %v late", n, late)
	}
	p.relax()
	if wait := p.wait(now); wait <= 0 || wait > gatherFor {
		t.Errorf("after a hurry the next job waits for %v", wait)
	}
}

// Whoever hurries does not wait for what is being gathered, and one worker is enough to wait.
func TestHurryEndsGathering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		began := time.Now()
		ended := make(chan bool)
		go func() { ended <- p.gather(t.Context(), time.Hour) }()
		synctest.Wait()
		if p.gather(t.Context(), time.Hour) {
			t.Error("two wait for the same")
		}
		p.press()
		p.press()
		if !<-ended || time.Since(began) > 0 {
			t.Errorf("gathered for %v", time.Since(began))
		}
		if !p.gather(t.Context(), time.Hour) || time.Since(began) > 0 {
			t.Error("gathered in a hurry")
		}
		p.relax()
		p.relax()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- p.gather(ctx, time.Hour) }()
		synctest.Wait()
		cancel()
		if !<-ended || time.Since(began) > 0 {
			t.Error("gathered beyond the end")
		}
	})
}
