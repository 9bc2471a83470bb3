package preflight

import (
	"context"
	"fmt"
	"time"
)

// reading is how far a server's clock is ahead of ours, give or take half a
// round trip.
type reading struct{ ahead, doubt time.Duration }

// clock asks a few times and keeps the quickest answer: it is the most exact.
func clock(ctx context.Context, s *server) (reading, error) {
	var best reading
	for i := range 5 {
		before := time.Now()
		there, err := s.client().Time(ctx).Result()
		after := time.Now()
		if err != nil {
			return reading{}, fmt.Errorf("TIME: %w", err)
		}
		half := after.Sub(before) / 2
		if i == 0 || half < best.doubt {
			best = reading{ahead: there.Sub(before.Add(half)), doubt: half}
		}
	}
	return best, nil
}

// checkClock compares the servers' clocks: expiries are moments, so a difference
// makes keys live longer or shorter.
func checkClock(ctx context.Context, in *inspection) []Finding {
	from, err := clock(ctx, in.from)
	if err != nil {
		return one(unknown(in.from, "reading the clock", err))
	}
	var worst reading
	for i, n := range in.to.each() {
		to, err := clock(ctx, n)
		if err != nil {
			return one(unknown(n, "reading the clock", err))
		}
		if i == 0 || (to.ahead-from.ahead).Abs() > (worst.ahead-from.ahead).Abs() {
			worst = to
		}
	}
	return one(clockFinding(in, worst.ahead-from.ahead, from.doubt+worst.doubt))
}

func clockFinding(in *inspection, ahead, doubt time.Duration) Finding {
	const notable, grave = 5 * time.Millisecond, time.Second
	by, direction, effect := ahead, "ahead of", "earlier"
	if ahead < 0 {
		by, direction, effect = -ahead, "behind", "later"
	}
	shown := by.Round(100 * time.Microsecond)
	const do = "Let both machines keep their time by NTP."
	switch {
	case by-doubt > grave:
		return warn(do+" Do so before the copy: short expiries would be wrong.",
			"the clock of the %s is %v %s that of the %s: keys with an expiry vanish that much %s after the switch, some at once", in.ToName, shown, direction, in.FromName, effect)
	case by-doubt > notable:
		return warn(do, "the clock of the %s is %v %s that of the %s: keys expire that much %s after the switch", in.ToName, shown, direction, in.FromName, effect)
	}
	return pass("the clocks differ by %v (± %v)", shown, doubt.Round(100*time.Microsecond))
}
