package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// copying is one measurement of a program that copies everything.
type copying struct {
	speed float64 // keys a second that reached the target
	cpu   float64 // seconds
	peak  float64 // MB resident
	// of the time between the first key on the target and the last
	source, target float64 // processor seconds of the servers
	idle           float64 // share of the processors' time in which nobody had work
}

// spent is what the servers and the whole machine have used since they were started.
type spent struct {
	source, target time.Duration
	machine        processors
}

func (b *copyBench) spent() (s spent, err error) {
	if s.source, err = cpuTime(b.park.source.Pid()); err != nil {
		return s, err
	}
	if s.target, err = cpuTime(b.park.target.Pid()); err != nil {
		return s, err
	}
	s.machine, err = processorTime()
	return s, err
}

// copyBench measures how fast programs copy, when nobody uses the servers.
type copyBench struct {
	bulk
	rounds map[string][]copying
}

// The programs.
const (
	floorName   = "floor"
	oursName    = "crossfade"
	changedName = "crossfade, changes"
	typedName   = "crossfade, by type"
	shakeName   = "RedisShake"
)

// copySpeed compares crossfade's copy with the floor and with RedisShake, in turn.
func copySpeed(ctx context.Context, o options, p *park) ([]claim, error) {
	if o.rounds <= 0 {
		o.rounds = 3
	}
	b := &copyBench{bulk: bulk{park: p, options: o}, rounds: make(map[string][]copying)}
	p.banner(describe(ctx, p, nil))
	p.sayf("filling %d keys\n", o.keys)
	var err error
	if b.keys, err = b.fill(ctx); err != nil {
		return nil, fmt.Errorf("filling the server: %w", err)
	}
	programs := []struct {
		name string
		run  func(context.Context) (copying, error)
	}{{floorName, b.floor}, {oursName, b.crossfade}, {changedName, b.changing}, {typedName, b.byType}}
	if o.redisShake != "" {
		programs = append(programs, struct {
			name string
			run  func(context.Context) (copying, error)
		}{shakeName, b.shake})
	}
	for round := range o.rounds {
		for _, prog := range programs {
			if err := p.target.Client(0).FlushAll(ctx).Err(); err != nil {
				return nil, err
			}
			got, err := prog.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("round %d, %s: %w", round+1, prog.name, err)
			}
			b.rounds[prog.name] = append(b.rounds[prog.name], got)
		}
	}
	p.sayf("\n%d keys, medians of %d rounds\n%-20s%10s%8s%8s%10s%10s%10s%8s\n", b.keys, o.rounds, "", "keys/s", "share", "CPU s", "peak MB", "source s", "target s", "idle")
	for _, prog := range programs {
		p.sayf("%-20s%10.0f%8.2f%8.2f%10.0f%10.2f%10.2f%8.2f\n", prog.name, b.median(prog.name, func(c copying) float64 { return c.speed }),
			b.share(prog.name, floorName), b.median(prog.name, func(c copying) float64 { return c.cpu }),
			b.median(prog.name, func(c copying) float64 { return c.peak }),
			b.median(prog.name, func(c copying) float64 { return c.source }),
			b.median(prog.name, func(c copying) float64 { return c.target }),
			b.median(prog.name, func(c copying) float64 { return c.idle }))
	}
	return b.claims(), nil
}

func (b *copyBench) median(name string, of func(copying) float64) float64 {
	values := make([]float64, len(b.rounds[name]))
	for i, c := range b.rounds[name] {
		values[i] = of(c)
	}
	return median(values)
}

// share is the median of the ratios within a round.
func (b *copyBench) share(name, of string) float64 {
	ratios := make([]float64, len(b.rounds[name]))
	for i, c := range b.rounds[name] {
		ratios[i] = c.speed / b.rounds[of][i].speed
	}
	return median(ratios)
}

func (b *copyBench) claims() []claim {
	floor := b.share(oursName, floorName)
	changing := b.share(changedName, oursName)
	typed := b.share(typedName, oursName)
	peak := b.median(oursName, func(c copying) float64 { return c.peak })
	list := []claim{
		{"at least 0.80 of the floor", floor >= .8, fmt.Sprintf("%.2f", floor)},
		{"a tenth of the keys changing does not halve it", changing >= .5, fmt.Sprintf("%.2f of its speed without", changing)},
		{"by type at least 0.40 of its speed with RESTORE", typed >= .4, fmt.Sprintf("%.2f", typed)},
		{"peak memory below 80 MB", peak < 80, fmt.Sprintf("%.0f MB", peak)},
	}
	if len(b.rounds[shakeName]) > 0 {
		times := b.share(oursName, shakeName)
		list = append(list, claim{"at least 3 times RedisShake", times >= 3, fmt.Sprintf("%.1f times", times)})
	}
	return list
}

// crossfade copies by a sidecar, with the clients away.
func (b *copyBench) crossfade(ctx context.Context) (copying, error) {
	s, err := b.park.sidecar(ctx, fmt.Sprintf("copy%d", time.Now().UnixNano()))
	if err != nil {
		return copying{}, err
	}
	got, err := b.watch(ctx, s.Pid(), s.Done())
	if err != nil {
		return got, fmt.Errorf("%w; the sidecar's last words:\n%s", err, s.LogTail())
	}
	return got, b.park.retire(ctx, s)
}

// changing is crossfade while clients change a tenth of the keys.
func (b *copyBench) changing(ctx context.Context) (copying, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	rate := b.rounds[oursName][0].speed / 10
	ended := make(chan error, 1)
	var written atomic.Int64
	go func() { ended <- b.change(ctx, rate, &written) }()
	got, err := b.crossfade(ctx)
	stop()
	if changeErr := <-ended; !errors.Is(changeErr, context.Canceled) {
		err = errors.Join(err, changeErr)
	}
	if err == nil && written.Load() == 0 {
		err = errors.New("nothing was changed meanwhile")
	}
	return got, err
}

// byType is crossfade towards a server that takes no RESTORE.
func (b *copyBench) byType(ctx context.Context) (copying, error) {
	typed, err := b.park.server(ctx, redistest.WithRenamed("RESTORE", ""))
	if err != nil {
		return copying{}, err
	}
	was := b.park.target
	b.park.target = typed
	defer func() { b.park.target = was }()
	got, err := b.crossfade(ctx)
	return got, errors.Join(err, typed.Client(0).FlushAll(ctx).Err()) // its memory is the next one's
}

// change writes keys here and there, rate a second, until ctx ends.
func (b *copyBench) change(ctx context.Context, rate float64, written *atomic.Int64) error {
	const every = 5 * time.Millisecond
	client := b.park.source.Client(0)
	defer func() { _ = client.Close() }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	strings := 10 * (b.keys / 13)
	for i := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for range max(1, int(rate*every.Seconds())) {
				i = (i + 7919) % strings // a prime far from any page
				p.SetRange(ctx, keyName(i), 0, "changed")
			}
			return nil
		})
		if err != nil {
			return err
		}
		written.Add(1)
	}
}

// floor copies with no more than the two commands that it takes.
func (b *copyBench) floor(ctx context.Context) (copying, error) {
	self, err := selfPath()
	if err != nil {
		return copying{}, err
	}
	p, err := launch("the floor", filepath.Join(b.park.dir, "floor.log"), self, floorVerb,
		"-from", b.park.source.URL(0), "-to", b.park.target.URL(0))
	if err != nil {
		return copying{}, err
	}
	defer p.stop()
	got, err := b.watch(ctx, p.pid, nil)
	if err != nil {
		return got, fmt.Errorf("%w; its last words:\n%s", err, p.words())
	}
	return got, nil
}

// shake copies by RedisShake.
func (b *copyBench) shake(ctx context.Context) (copying, error) {
	p, err := b.copierProgram(ctx)
	if err != nil {
		return copying{}, err
	}
	defer p.stop()
	got, err := b.watch(ctx, p.pid, p.done)
	if err != nil {
		return got, fmt.Errorf("%w; its last words:\n%s", err, p.words())
	}
	return got, nil
}

// watch measures from the first key on the target to the last one. A program that
// ends before that has failed; nil: it may.
func (b *copyBench) watch(ctx context.Context, pid int, gone <-chan struct{}) (copying, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("not copied within five minutes"))
	defer cancel()
	target := b.park.target.Client(0)
	defer func() { _ = target.Close() }()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	var begun time.Time
	var before spent
	var first int64
	for {
		select {
		case <-poll.C:
		case <-gone:
			return copying{}, errors.New("it has ended")
		case <-ctx.Done():
			return copying{}, context.Cause(ctx)
		}
		n, err := target.DBSize(ctx).Result()
		if err != nil {
			return copying{}, err
		}
		if begun.IsZero() {
			if n > 1 { // one may be a heartbeat
				begun, first = time.Now(), n
				if before, err = b.spent(); err != nil {
					return copying{}, err
				}
			}
			continue
		}
		if n < int64(b.keys) {
			continue
		}
		got := copying{speed: float64(n-first) / time.Since(begun).Seconds()}
		after, err := b.spent()
		if err != nil {
			return got, err
		}
		got.source, got.target = (after.source - before.source).Seconds(), (after.target - before.target).Seconds()
		got.idle = 1 - after.machine.since(before.machine)/100
		cpu, err := cpuTime(pid)
		if err != nil {
			return got, err
		}
		got.cpu = cpu.Seconds()
		got.peak, err = peakMB(pid)
		return got, err
	}
}
