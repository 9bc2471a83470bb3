package redistest

import (
	"context"
	"math/rand/v2"
	"time"
)

// Storm disturbs the link at random until ctx ends: it cuts some connections or
// all, also in the middle of a command or a reply, stalls, delays, refuses and
// makes half-open. Pause is the mean time between two faults. When it returns the
// link is whole again and has no connection left from before.
func (l *Link) Storm(ctx context.Context, rng *rand.Rand, pause time.Duration) {
	some := func() bool { return rng.IntN(4) == 0 }
	after := func(d time.Duration) {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	upTo := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
	for ctx.Err() == nil {
		after(upTo(2 * pause))
		switch rng.IntN(10) {
		case 0:
			l.Cut()
		case 1, 2:
			l.CutSome(some)
		case 3:
			l.CutAfter(rng.Int64N(1 << 16))
		case 4:
			l.CutAfterUp(rng.Int64N(1 << 16))
		case 5:
			l.StallDown(true)
			after(upTo(2 * pause))
			l.StallDown(false)
		case 6:
			l.StallUp(true)
			after(upTo(2 * pause))
			l.StallUp(false)
		case 7:
			l.SetDelayDown(upTo(5 * time.Millisecond))
			l.SetDelayUp(upTo(5 * time.Millisecond))
			after(upTo(4 * pause))
			l.SetDelay(0)
		case 8:
			l.Swallow(some)
			after(upTo(2 * pause))
			l.Cut()
		case 9:
			l.Refuse(true)
			l.CutSome(some)
			after(upTo(pause))
			l.Refuse(false)
		}
	}
	l.CutAfter(-1)
	l.CutAfterUp(-1)
	l.Cut()
}
