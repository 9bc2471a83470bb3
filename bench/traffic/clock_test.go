package traffic

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// An even rate, for each by its own, and made up for, but not without end.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		c := newClock()
		fast, slow := c.line(250), c.line(20)
		go c.run(ctx)
		turns := func(l *line, d time.Duration) (n int) {
			ctx, cancel := context.WithTimeout(ctx, d)
			defer cancel()
			for l.await(ctx) {
				n++
			}
			return n
		}
		if n := turns(fast, time.Second); n < 248 || n > 251 {
			t.Errorf("%d turns in a second, of 250", n)
		}
		if n := turns(slow, time.Second); n < 20 || n > 24 { // with what it has missed of the second before: one waits, three are made up for
			t.Errorf("%d turns in a second, of 20", n)
		}
		time.Sleep(20 * time.Second) // fast has worked on one operation all the time
		if n := turns(fast, 50*time.Millisecond); n < 30 || n > 51 {
			t.Errorf("%d turns after it could not work for long", n)
		}
		if n := turns(fast, time.Second); n < 245 || n > 251 {
			t.Errorf("%d turns in a second, of 250, when it has caught up", n)
		}
		stop()
		if fast.await(ctx) {
			t.Error("a turn after the end")
		}
		synctest.Wait()
	})
}
