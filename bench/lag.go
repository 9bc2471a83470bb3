package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// lagging measures how long a write that the source has acknowledged takes to the
// target, by a sidecar that has nothing left to scan.
type lagging struct {
	park           *park
	source, target *redis.Client
}

const (
	lagKey     = "bench:lag"
	lagKeys    = 100_000 // that are written beside it
	lagRate    = 20_000
	hotRate    = 50_000
	lagSamples = 1000
	lagEvery   = 4 * time.Millisecond
	lagRounds  = 3 // of a measurement whose writes do not reach their rate
)

// lag measures it idle, beside writes to many keys, and beside many to one.
func lag(ctx context.Context, p *park) ([]claim, error) {
	p.banner(describe(ctx, p, nil))
	l := &lagging{park: p, source: p.source.Client(0), target: p.target.Client(0)}
	defer func() { _, _ = l.source.Close(), l.target.Close() }()
	s, err := p.sidecar(ctx, fmt.Sprintf("lag%d", time.Now().UnixNano()))
	if err != nil {
		return nil, err
	}
	if err := ready(ctx, s, 30*time.Second); err != nil {
		return nil, fmt.Errorf("%w; the sidecar's last words:\n%s", err, s.LogTail())
	}
	p.sayf("\n%-32s%10s%10s%10s%10s%12s\n", "lag, ms", "p50", "p99", "max", "writes/s", "copies/s")
	idle, err := l.measure(ctx, "idle", 0, 0)
	if err != nil {
		return nil, err
	}
	busy, err := l.paced(ctx, fmt.Sprintf("%d writes/s, %d keys", lagRate, lagKeys), lagRate, lagKeys)
	if err != nil {
		return nil, err
	}
	hot, err := l.paced(ctx, fmt.Sprintf("%d writes/s, one key", hotRate), hotRate, 1)
	if err != nil {
		return nil, err
	}
	return lagClaims(idle, busy, hot), nil
}

// lagClaims are what the measurements bear out; those that lacked their writes bear out nothing.
func lagClaims(idle, busy, hot lagSeen) []claim {
	return []claim{
		{"idle, p50 below 1 ms and p99 below 3 ms", idle.p50 < 1 && idle.p99 < 3, fmt.Sprintf("%.2f and %.2f ms", idle.p50, idle.p99)},
		busy.beside(lagRate, claim{fmt.Sprintf("at %d writes/s, p99 below 30 ms", lagRate), busy.p99 < 30, fmt.Sprintf("%.2f ms", busy.p99)}),
		hot.beside(hotRate, claim{fmt.Sprintf("a key written %d times/s is copied less often than it is written", hotRate), hot.copies > 0 && hot.copies < hot.writes/4,
			fmt.Sprintf("%.0f copies for %.0f writes a second", hot.copies, hot.writes)}),
	}
}

// lagSeen is one measurement, in milliseconds and per second.
type lagSeen struct{ p50, p99, most, writes, copies float64 }

// reached reports whether so many writes a second were made as were asked for.
func (s lagSeen) reached(rate float64) bool { return s.writes >= reached*rate }

// beside is a claim about a lag beside rate writes a second: it fails without them.
func (s lagSeen) beside(rate float64, c claim) claim {
	if !s.reached(rate) {
		c.pass, c.proof = false, fmt.Sprintf("%s, but only %.0f writes/s were made: it says nothing", c.proof, s.writes)
	}
	return c
}

// paced measures again where the writes did not reach their rate, for a while: another
// process may have had the machine.
func (l *lagging) paced(ctx context.Context, name string, rate, keys int) (seen lagSeen, err error) {
	for range lagRounds {
		seen, err = l.measure(ctx, name, rate, keys)
		if err != nil || seen.reached(float64(rate)) {
			break
		}
	}
	return seen, err
}

func (l *lagging) measure(ctx context.Context, name string, rate, keys int) (lagSeen, error) {
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var written atomic.Int64
	ended := make(chan error, 1)
	go func() { ended <- l.write(writing, rate, keys, &written) }()
	before, err := restored(ctx, l.target)
	if err != nil {
		return lagSeen{}, err
	}
	begun := time.Now()
	samples, err := l.samples(ctx)
	took := time.Since(begun).Seconds()
	stop()
	if writeErr := <-ended; !errors.Is(writeErr, context.Canceled) {
		err = errors.Join(err, writeErr)
	}
	after, statErr := restored(ctx, l.target)
	if err := errors.Join(err, statErr); err != nil {
		return lagSeen{}, fmt.Errorf("lag, %s: %w", name, err)
	}
	slices.Sort(samples)
	at := func(q float64) float64 {
		return float64(samples[min(len(samples)-1, int(q*float64(len(samples))))].Microseconds()) / 1000
	}
	seen := lagSeen{p50: at(.5), p99: at(.99), most: at(1), writes: float64(written.Load()) / took,
		copies: float64(after-before-int64(len(samples))) / took}
	l.park.sayf("%-32s%10.2f%10.2f%10.2f%10.0f%12.0f\n", name, seen.p50, seen.p99, seen.most, seen.writes, seen.copies)
	return seen, nil
}

// samples writes a key again and again, and has the target tell when it is there.
// Asking for it all the time would take a processor from those that are measured.
func (l *lagging) samples(ctx context.Context) ([]time.Duration, error) {
	if err := l.target.ConfigSet(ctx, "notify-keyspace-events", "KA").Err(); err != nil {
		return nil, err
	}
	sub := l.target.Subscribe(ctx, "__keyspace@0__:"+lagKey)
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(ctx); err != nil {
		return nil, err
	}
	told := sub.Channel()
	out := make([]time.Duration, 0, lagSamples)
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	for i := range lagSamples {
		want := strconv.Itoa(i)
		if err := l.source.Set(ctx, lagKey, want, 0).Err(); err != nil {
			return nil, err
		}
		acknowledged := time.Now()
		late := time.After(time.Minute)
		for there := false; !there; {
			select {
			case <-told:
			case <-late:
				return nil, errors.New("a write has not come within a minute")
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			d := time.Since(acknowledged)
			got, err := l.target.Get(ctx, lagKey).Result()
			if err != nil {
				return nil, err
			}
			if there = got == want; there {
				out = append(out, d)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return out, nil
}

// write writes keys, rate times a second, until ctx ends.
func (l *lagging) write(ctx context.Context, rate, keys int, written *atomic.Int64) error {
	const every = 2 * time.Millisecond
	client := l.park.source.Client(0)
	defer func() { _ = client.Close() }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	begun, n := time.Now(), 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		due := int(time.Since(begun).Seconds()*float64(rate)) - n
		if due <= 0 {
			continue
		}
		if _, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for range due {
				n++
				p.Set(ctx, "bench:beside:"+strconv.Itoa(n*7919%keys), n, 0)
			}
			return nil
		}); err != nil {
			return err
		}
		written.Add(int64(due))
	}
}
