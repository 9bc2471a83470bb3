package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// pass lets time go by under writers.
func (ch *churn) pass(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}

// feedKilled kills the notification connection again and again under writers.
func feedKilled(t *testing.T, p *peers) {
	ch := startChurn(t, p, scaled(5000, 2000), true, false)
	every := scaled(time.Second, 300*time.Millisecond)
	for begun := time.Now(); time.Since(begun) < scaled(time.Minute, 3*time.Second); {
		ch.pass(every)
		p.feed.Cut()
	}
	ch.end()
	s := must[migration.Status](t)(p.c.status())
	t.Logf("%d writes, %d gaps", ch.writes.Load(), s.Gaps)
	if s.Gaps < 3 {
		t.Errorf("%d gaps although the connection was killed again and again", s.Gaps)
	}
}

// feedOverrun has the server close the notification connection for want of
// reading, which the stalled link makes certain.
func feedOverrun(t *testing.T, p *peers) {
	ch := startChurn(t, p, scaled(5000, 2000), true, false)
	pad := strings.Repeat("k", 300)
	rounds := scaled(20, 3)
	for round := range rounds {
		p.c.await("the notifications are back", func(migration.Status) bool { return subscribers(t, p.src) > 0 })
		p.feed.StallDown(true)
		// The kernel's buffers on the way take some megabytes first.
		for n := 0; subscribers(t, p.src) > 0; n++ {
			fill(t, p.client(n%2 == 0, round%2), pad+fmt.Sprint(n%4), 2000)
		}
		p.feed.StallDown(false)
	}
	ch.end()
	p.c.await("the gaps are noticed", func(s migration.Status) bool { return s.Gaps >= rounds })
}

// subscribers counts the notification connections that are subscribed.
func subscribers(t *testing.T, s *redistest.Server) int {
	t.Helper()
	list, err := s.Client(0).ClientList(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(list) {
		if strings.Contains(line, ":feed ") && strings.Contains(line, " psub=2 ") {
			n++
		}
	}
	return n
}

// feedSwitchedOff has somebody switch the notifications off under writers, as a
// whole and by class.
func feedSwitchedOff(t *testing.T, p *peers) {
	ch := startChurn(t, p, 1000, true, false)
	for round, flags := range []string{"", "KEg$lszxet"} { // the second without hashes
		before := must[migration.Status](t)(p.c.status()).Gaps
		do(t, p.direct[0], "CONFIG", "SET", "notify-keyspace-events", flags)
		do(t, p.client(round == 0, 0), "HSET", "untold", "round", round)
		p.truth.owe("what nobody is told of", func(ctx context.Context) (bool, error) {
			v, err := p.dst.Client(0).HGet(ctx, "untold", "round").Int()
			return err == nil && v >= round, err
		})
		p.c.await("the gap is noticed", func(s migration.Status) bool { return s.Gaps > before })
		p.c.await("it is mended", func(s migration.Status) bool { return s.Ready })
		if got := p.direct[0].ConfigGet(t.Context(), "notify-keyspace-events").Val()["notify-keyspace-events"]; !strings.Contains(got, "A") {
			t.Errorf("round %d: the setting is %q", round, got)
		}
	}
	ch.end()
}

// targetStopped freezes the target: connections stand and nothing is answered.
func targetStopped(t *testing.T, p *peers) {
	ch := startChurn(t, p, 2000, true, false)
	if err := p.dst.Stop(); err != nil {
		t.Fatal(err)
	}
	p.isNotReady(t, ch, scaled(30*time.Second, 4*time.Second))
	if err := p.dst.Cont(); err != nil {
		t.Fatal(err)
	}
	ch.end()
}

// targetKilled ends the target and starts it again.
func targetKilled(t *testing.T, p *peers) {
	fill(t, p.direct[0], "before", 2000)
	equalSides(t, p.src, p.dst, peersMap)
	ch := startChurn(t, p, 2000, true, false)
	p.dst.Kill()
	p.isNotReady(t, ch, scaled(30*time.Second, 4*time.Second))
	if err := p.dst.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	ch.end()
}

// isNotReady checks that, with its target away, the sidecar says so and that its
// clients are served.
func (p *peers) isNotReady(t *testing.T, ch *churn, away time.Duration) {
	t.Helper()
	begun := time.Now()
	p.c.await("not ready", func(s migration.Status) bool { return !s.Ready })
	before := ch.writes.Load()
	lag := 0.0
	for time.Since(begun) < away {
		ch.pass(50 * time.Millisecond)
		s := must[migration.Status](t)(p.c.status())
		if s.Ready || len(s.Reasons) == 0 {
			t.Errorf("ready %v, reasons %q while the target is away", s.Ready, s.Reasons)
			return
		}
		if s.LagMS < lag {
			t.Errorf("the lag shrinks from %.0f to %.0f ms while the target is away", lag, s.LagMS)
			return
		}
		lag = s.LagMS
	}
	if ch.writes.Load() == before {
		t.Error("clients were not served while the target was away")
	}
}

// massDelete removes everything at once while the target is slow to follow.
func massDelete(t *testing.T, p *peers) {
	keys := scaled(1_000_000, 40_000)
	fill(t, p.direct[0], "mass", keys)
	redistest.Eventually(t, 2*time.Minute, func() error {
		if n, err := p.dst.Client(0).DBSize(t.Context()).Result(); err != nil || int(n) < keys {
			return fmt.Errorf("%d keys: %w", n, err)
		}
		return nil
	}, "copied")
	p.to.SetDelay(20 * time.Millisecond)
	for from := 0; from < keys; from += 1000 {
		pipe := p.client(from%2000 == 0, 0).Pipeline()
		for k := from; k < from+1000; k++ {
			pipe.Del(t.Context(), fmt.Sprintf("mass:%d", k))
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.truth.owe("the last DEL", p.missing(0, fmt.Sprintf("mass:%d", keys-1)))
}

// toolKilled kills the sidecar and changes things before it is started again.
func toolKilled(t *testing.T, p *peers) {
	fill(t, p.direct[0], "kept", 3000)
	fill(t, p.direct[1], "kept", 3000)
	equalSides(t, p.src, p.dst, peersMap)
	ch := startChurn(t, p, 2000, false)
	for round := range scaled(10, 2) {
		p.c.kill()
		for k := range 200 {
			do(t, p.direct[0], "DEL", fmt.Sprintf("kept:%d", round*200+k))
		}
		p.c.start("")
		p.truth.owe("DEL while nobody listened", p.missing(0, fmt.Sprintf("kept:%d", round*200)))
		p.c.awaitReady()
	}
	ch.end()
}
