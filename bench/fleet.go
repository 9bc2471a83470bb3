package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/demo/sidecar"
	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// A member without clients: all that one does for its fleet, by the code of a sidecar, and no
// proxy. So a thousand of them fit into one process, which takes the processors from the servers
// as a thousand machines would not: what they make of a switch here is the most that it can be.

// bystander is what such a member has in the place of a proxy. It notes when clients would have
// waited.
type bystander struct {
	gate *router.Gate

	mu         sync.Mutex
	shut, open time.Time // the last time
}

var _ migration.MemberTraffic = (*bystander)(nil)

func (*bystander) Prepare(context.Context, router.Side) error { return nil }
func (*bystander) Settle(context.Context) error               { return nil }

func (b *bystander) Hold(ctx context.Context) error {
	b.mu.Lock()
	b.shut = time.Now()
	b.mu.Unlock()
	return b.gate.Shut(ctx)
}

func (*bystander) Align(context.Context, router.Route) error { return nil }

func (b *bystander) Release(r router.Route) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gate.Open(r)
	b.open = time.Now()
}

// waited is from when to when clients would have waited last.
func (b *bystander) waited() (from, to time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.shut, b.open
}

func (*bystander) Stalls() migration.Stalls                       { return migration.Stalls{} }
func (*bystander) Scripts() []string                              { return nil }
func (*bystander) UpstreamAddrs(router.Side) map[string]struct{}  { return nil }
func (*bystander) Learn([]keyspec.Command)                        {}
func (*bystander) Silent() (forwarded, finished map[string]int64) { return nil, nil }
func (*bystander) Shadow(int)                                     {}
func (*bystander) Shadowed() int64                                { return 0 }
func (*bystander) Served() (commands int64, took time.Duration)   { return 0, 0 }
func (*bystander) Sever(router.Side)                              {}
func (*bystander) Retry()                                         {}
func (*bystander) DropListeners(router.Side)                      {}

// fleetBench is one that copies, a process of its own, and its members, in this one.
type fleetBench struct {
	source, target *redistest.Server
	dir            string
	one            *sidecar.Process
	members        []*bystander
	running        sync.WaitGroup
	ended          chan error // of members
}

// expense is what a fleet costs in a second.
type expense struct {
	connections [2]int64   // by router.Side, clients of the server
	commands    [2]float64 // a second
	bytes       [2]float64 // a second, both ways
	server      [2]float64 // processor milliseconds a second
	members     float64    // of this process, milliseconds a second
	one         float64    // of the one that copies
}

// crossing is what a switch was with so many members.
type crossing struct {
	held         float64 // ms, of the one that copies
	median, most float64 // ms, of members
	late         float64 // ms, from the first member that lets go on to the last
	missing      int     // members that had not held their clients when the fence went up
}

// fleetCost measures what members cost the servers, and how long a switch takes with them, for
// each number of them in o.fleet. Each fleet has servers of its own: behind a switch, nobody may
// ask one of them anything.
func fleetCost(ctx context.Context, o options, p *park) ([]claim, error) {
	sizes, err := fleetSizes(o.fleet)
	if err != nil {
		return nil, err
	}
	if o.seconds <= 0 {
		o.seconds = 10
	}
	if o.rounds <= 0 {
		o.rounds = 6
	}
	p.banner(describe(ctx, p, nil))
	p.sayf("members without clients, all in one process: what each costs in a second of %g, and\n%d switches\n\n"+
		"%9s%16s%16s%16s%16s%8s%8s\n%9s%8s%8s%8s%8s%8s%8s%8s%8s%8s%8s\n", o.seconds, o.rounds,
		"", "connections", "commands", "bytes", "CPU ms", "CPU ms", "CPU ms", "members", "source", "target", "source", "target", "source", "target", "source", "target", "itself", "copier")
	var all []crossing
	for _, n := range sizes {
		c, err := p.fleetOf(ctx, o, n)
		if err != nil {
			return nil, fmt.Errorf("%d members: %w", n, err)
		}
		all = append(all, c)
	}
	p.sayf("\n%9s%12s%14s%14s%16s%14s\n", "members", "hold, ms", "a member's", "the longest", "last behind", "not in time")
	for i, c := range all {
		p.sayf("%9d%12.1f%14.1f%14.1f%16.1f%14d\n", sizes[i], c.held, c.median, c.most, c.late, c.missing)
	}
	return nil, nil
}

// inMemory is a folder that is on no disk, where there is one, for the members' state files: each
// member has a disk of its own elsewhere, and a thousand would wait for the one of this machine.
func inMemory() string {
	const folder = "/dev/shm"
	if info, err := os.Stat(folder); err == nil && info.IsDir() {
		return folder
	}
	return ""
}

// fleetOf measures a fleet of one that copies and n members.
func (p *park) fleetOf(ctx context.Context, o options, n int) (c crossing, err error) {
	f := &fleetBench{ended: make(chan error, n)}
	if f.dir, err = os.MkdirTemp(inMemory(), "crossfade-fleet-"); err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(f.dir)) }()
	if f.source, err = p.server(ctx); err != nil {
		return c, err
	}
	if f.target, err = p.server(ctx); err != nil {
		return c, err
	}
	source, target := p.source, p.target
	p.source, p.target = f.source, f.target
	f.one, err = p.sidecar(ctx, fmt.Sprintf("fleet-%d", n), "--verify.rate", "0", "--cutover.max_stall", "10s")
	p.source, p.target = source, target
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer f.running.Wait()
	defer cancel()
	if err := ready(ctx, f.one, time.Minute); err != nil {
		return c, err
	}
	alone, err := f.expense(ctx, o.seconds)
	if err != nil {
		return c, err
	}
	if err := f.grow(ctx, n); err != nil {
		return c, err
	}
	e, err := f.expense(ctx, o.seconds)
	if err != nil {
		return c, err
	}
	p.sayf("%s\n", e.each(n, alone))
	if c, err = f.cross(ctx, o.rounds); err != nil {
		return c, err
	}
	return c, p.retire(ctx, f.one)
}

func fleetSizes(text string) (sizes []int, err error) {
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || len(sizes) > 0 && n <= sizes[len(sizes)-1] {
			return nil, fmt.Errorf("reading -fleet %q: give numbers that rise, with commas between", text)
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

// grow adds members until there are n, and waits until the one that copies knows all.
func (f *fleetBench) grow(ctx context.Context, n int) error {
	for len(f.members) < n {
		if err := f.join(ctx, len(f.members)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("not all are known after two minutes"))
	defer cancel()
	for {
		st, err := f.one.Admin().Status(ctx)
		if err != nil {
			return err
		}
		alive := 0
		for _, m := range st.Members {
			if m.Alive {
				alive++
			}
		}
		if alive >= n {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case err := <-f.ended:
			return fmt.Errorf("a member has ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %d of %d", context.Cause(ctx), alive, n)
		}
	}
}

// join starts a member.
func (f *fleetBench) join(ctx context.Context, i int) error {
	c := config.Default()
	c.Role, c.Instance = "proxy", fmt.Sprintf("member-%d", i)
	c.Source, c.Target = config.Server{URL: config.Secret(f.source.URL(0))}, config.Server{URL: config.Secret(f.target.URL(0))}
	c.Cutover.MaxStall = 10 * time.Second
	var ends [2]config.Endpoint
	for side, s := range []config.Server{c.Source, c.Target} {
		var err error
		if ends[side], err = s.Endpoint(); err != nil {
			return err
		}
	}
	file, err := store.OpenFile(filepath.Join(f.dir, fmt.Sprintf("member-%d.state", i)))
	if err != nil {
		return err
	}
	b := &bystander{gate: router.NewGate(router.Route{Side: router.Source})}
	if err := b.gate.Shut(ctx); err != nil {
		return err
	}
	m := migration.NewMember(migration.MemberOptions{
		Config: c, Source: ends[router.Source], Target: ends[router.Target], Gate: b.gate, Traffic: b, File: file, Version: "simulated",
	}, slog.New(slog.DiscardHandler))
	if err := m.Recover(ctx); err != nil {
		return errors.Join(err, file.Close())
	}
	f.members = append(f.members, b)
	f.running.Go(func() {
		err := m.Run(ctx)
		if ctx.Err() == nil {
			f.ended <- err
		}
		_ = file.Close()
	})
	return nil
}

// servers are both, by router.Side.
func (f *fleetBench) servers() [2]*redistest.Server { return [2]*redistest.Server{f.source, f.target} }

// expense measures for so many seconds.
func (f *fleetBench) expense(ctx context.Context, seconds float64) (e expense, err error) {
	before, err := f.spent(ctx)
	if err != nil {
		return e, err
	}
	began := time.Now()
	select {
	case <-time.After(time.Duration(seconds * float64(time.Second))):
	case err := <-f.ended:
		return e, fmt.Errorf("a member has ended: %w", err)
	case <-ctx.Done():
		return e, context.Cause(ctx)
	}
	after, err := f.spent(ctx)
	if err != nil {
		return e, err
	}
	took := time.Since(began).Seconds()
	e.connections = after.connections
	for side := range e.commands {
		e.commands[side] = (after.commands[side] - before.commands[side]) / took
		e.bytes[side] = (after.bytes[side] - before.bytes[side]) / took
		e.server[side] = (after.server[side] - before.server[side]) / took
	}
	e.members, e.one = (after.members-before.members)/took, (after.one-before.one)/took
	return e, nil
}

// spent is what was used since everything was started.
func (f *fleetBench) spent(ctx context.Context) (e expense, err error) {
	for side, s := range f.servers() {
		c := s.Client(0)
		info, err := c.InfoMap(ctx, "clients", "stats").Result()
		_ = c.Close()
		if err != nil {
			return e, err
		}
		if e.connections[side], err = strconv.ParseInt(info["Clients"]["connected_clients"], 10, 64); err != nil {
			return e, fmt.Errorf("reading INFO clients of %s: %w", s.Addr(), err)
		}
		for _, name := range []string{"total_commands_processed", "total_net_input_bytes", "total_net_output_bytes"} {
			n, err := strconv.ParseFloat(info["Stats"][name], 64)
			if err != nil {
				return e, fmt.Errorf("reading INFO stats of %s: %w", s.Addr(), err)
			}
			if strings.HasSuffix(name, "bytes") {
				e.bytes[side] += n
			} else {
				e.commands[side] += n
			}
		}
		used, err := cpuTime(s.Pid())
		if err != nil {
			return e, err
		}
		e.server[side] = 1000 * used.Seconds()
	}
	used, err := cpuTime(f.one.Pid())
	if err != nil {
		return e, err
	}
	e.one = 1000 * used.Seconds()
	if used, err = cpuTime(syscall.Getpid()); err != nil {
		return e, err
	}
	e.members = 1000 * used.Seconds()
	return e, nil
}

// each is a line of what each of n members costs.
func (e expense) each(n int, alone expense) string {
	each := func(now, before float64) float64 { return (now - before) / float64(n) }
	const s, t = router.Source, router.Target
	return fmt.Sprintf("%9d%8.1f%8.1f%8.1f%8.1f%8.0f%8.0f%8.2f%8.2f%8.2f%8.2f", n,
		each(float64(e.connections[s]), float64(alone.connections[s])), each(float64(e.connections[t]), float64(alone.connections[t])),
		each(e.commands[s], alone.commands[s]), each(e.commands[t], alone.commands[t]),
		each(e.bytes[s], alone.bytes[s]), each(e.bytes[t], alone.bytes[t]),
		each(e.server[s], alone.server[s]), each(e.server[t], alone.server[t]),
		each(e.members, alone.members), each(e.one, alone.one))
}

// cross switches there and back, n times in all.
func (f *fleetBench) cross(ctx context.Context, n int) (c crossing, err error) {
	var held, middle, most, late []float64
	for i := range n {
		if err := ready(ctx, f.one, time.Minute); err != nil {
			return c, err
		}
		verb, to := f.one.Admin().Cutover, router.Target
		if i%2 == 1 {
			verb, to = f.one.Admin().Rollback, router.Source
		}
		began := time.Now()
		r, err := verb(ctx, admin.SwitchRequest{})
		if err != nil {
			return c, fmt.Errorf("switch %d: %w", i+1, err)
		}
		if err := f.allAt(ctx, to); err != nil {
			return c, fmt.Errorf("switch %d: %w", i+1, err)
		}
		var waits []float64
		var first, last time.Time
		for _, b := range f.members {
			from, to := b.waited()
			if from.Before(began) {
				continue // its clients did not wait this time
			}
			waits = append(waits, ms(to.Sub(from)))
			if first.IsZero() || to.Before(first) {
				first = to
			}
			if to.After(last) {
				last = to
			}
		}
		if len(waits) == 0 {
			return c, fmt.Errorf("switch %d: no member has held its clients", i+1)
		}
		slices.Sort(waits)
		held, middle = append(held, r.Held), append(middle, waits[len(waits)/2])
		most, late = append(most, waits[len(waits)-1]), append(late, ms(last.Sub(first)))
		if r.Fleet != nil {
			c.missing = max(c.missing, len(f.members)-r.Fleet.Held)
		}
	}
	c.held, c.median, c.most, c.late = median(held), median(middle), slices.Max(most), slices.Max(late)
	return c, nil
}

// allAt waits until all members let their clients go on at a side.
func (f *fleetBench) allAt(ctx context.Context, side router.Side) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("a member has not followed to the %s within a minute", side))
	defer cancel()
	for _, b := range f.members {
		for b.gate.IsShut() || b.gate.Route().Side != side {
			select {
			case <-time.After(5 * time.Millisecond):
			case err := <-f.ended:
				return fmt.Errorf("a member has ended: %w", err)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
