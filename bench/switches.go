package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/bench/traffic"
	"github.com/crossfade/crossfade/internal/demo/sidecar"
	"github.com/crossfade/crossfade/migration"
)

// switching is one switch. Times are in milliseconds.
type switching struct {
	calm    float64 // the longest that a client waited in a third of a second before it
	stall   float64 // … and from the switch on to a third of a second after it
	held    float64 // as crossfade says: from the hold to the release
	session float64 // … and the longest that a session of the proxy waited
	steps   map[string]float64
}

// switched is a row of switches under load.
type switched struct {
	name    string
	list    []switching
	account traffic.Account
	rate    float64 // operations a second, the whole time
	busy    float64 // percent of the machine's processors, likewise
}

// The names of what is compared.
const (
	aloneSwitch    = "the load alone"
	oursSwitch     = "Crossfade"
	pausedSwitch   = "promotion, writes paused"
	unpausedSwitch = "promotion"
)

// heldSteps are those while clients wait.
func heldSteps() []string {
	all := migration.StepNames()
	return all[slices.Index(all, "hold") : slices.Index(all, "release")+1]
}

// switches measures what switches there and back do to clients, and what a plain
// promotion of a replica does to them.
func switches(ctx context.Context, o options, p *park) ([]claim, error) {
	about := describe(ctx, p, nil)
	if haproxy.binary() != "" && o.promotions > 0 {
		about.versions = append(about.versions, version(ctx, haproxy.binary(), "-v"))
	}
	p.banner(about)
	fmt.Printf("%d switches there and back under about %d operations/s; then %d promotions of a replica, twice\n", o.switches, o.rate, o.promotions)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(loadGC)
	}
	alone, err := p.loadAlone(ctx, o)
	if err != nil {
		return nil, err
	}
	ours, err := p.switchOurs(ctx, o)
	if err != nil {
		return nil, err
	}
	all := []*switched{ours}
	for _, paused := range []bool{true, false} {
		if o.promotions == 0 {
			break
		}
		s, err := p.promote(ctx, o, paused)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	all = append(all, alone)
	var text strings.Builder
	switchTable(&text, all)
	fmt.Print("\n", text.String(), "\n")
	claims := ours.claims()
	if o.out != "" {
		var page, picture strings.Builder
		switchPage(&page, about, all, claims)
		switchPlot(&picture, about, ours)
		for name, content := range map[string]string{"switches.md": page.String(), "switches.svg": picture.String()} {
			path := filepath.Join(o.out, name)
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				return nil, fmt.Errorf("writing the report: %w", err)
			}
			fmt.Println("wrote", path)
		}
	}
	if !ours.account.Clean() || ours.account.Errors+ours.account.Reconnects > 0 {
		return nil, fmt.Errorf("clients of crossfade were wronged: %s", ours.account)
	}
	return claims, nil
}

// claims are about figures; that nothing is lost and nobody sees an error is asked for in
// any case.
func (s *switched) claims() []claim {
	stalls := s.of(func(w switching) float64 { return w.stall })
	middle, high := quantile(stalls, .5), quantile(stalls, .99)
	return []claim{
		{"the longest wait of any client, median of the switches, below 10 ms", middle < 10, fmt.Sprintf("%.1f ms", middle)},
		{"… 99th percentile below 50 ms", high < 50, fmt.Sprintf("%.1f ms", high)},
		{"at least 10 000 operations/s", s.rate >= 10_000, fmt.Sprintf("%.0f", s.rate)},
	}
}

func (s *switched) of(figure func(switching) float64) []float64 {
	values := make([]float64, len(s.list))
	for i, w := range s.list {
		values[i] = figure(w)
	}
	return values
}

// quantile is the smallest value that so large a part of the values is not above.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[min(len(values)-1, int(q*float64(len(values))))]
}

// switchOurs makes cutovers and rollbacks in turn.
func (p *park) switchOurs(ctx context.Context, o options) (*switched, error) {
	dir := filepath.Join(p.dir, "switches")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	s, err := sidecar.Start(ctx, sidecar.Config{Binary: p.crossfade, Dir: dir, Source: p.source.URL(0), Target: p.target.URL(0), Map: "0=0,1=1"})
	if err != nil {
		return nil, err
	}
	p.sidecars = append(p.sidecars, s)
	once := func(ctx context.Context, i int) (switching, error) {
		if err := ready(ctx, s, time.Minute); err != nil {
			return switching{}, err
		}
		verb := s.Admin().Cutover
		if i%2 == 1 {
			verb = s.Admin().Rollback
		}
		r, err := verb(ctx, admin.SwitchRequest{})
		if err != nil {
			return switching{}, fmt.Errorf("%w; the sidecar's last words:\n%s", err, s.LogTail())
		}
		w := switching{held: r.Held, session: r.Stall.Max, steps: make(map[string]float64)}
		for _, step := range r.Steps {
			w.steps[step.Name] = step.MS
		}
		return w, nil
	}
	home := p.source
	if o.switches%2 == 1 {
		home = p.target
	}
	sw := swing{name: oursSwitch, addr: s.Addr(), rate: o.rate, prefix: "ours", once: once}
	return sw.run(ctx, o.switches, home.Addr())
}

// loadGC is the garbage collector's percentage for the load: its accounts grow, and to look
// through them all the time would be a load on the machine that no client is.
const loadGC = 400

// loadAlone has the load work at a server of its own, with nothing between: what it takes of
// the machine, and how long clients wait when nothing is done to them.
func (p *park) loadAlone(ctx context.Context, o options) (*switched, error) {
	server, err := p.server(ctx)
	if err != nil {
		return nil, err
	}
	sw := swing{name: aloneSwitch, addr: server.Addr(), rate: o.rate, prefix: "alone", once: func(context.Context, int) (switching, error) { return switching{}, nil }}
	return sw.run(ctx, min(10, o.switches), server.Addr())
}

// swing makes switches under load.
type swing struct {
	name, addr, prefix string
	rate               int
	once               func(ctx context.Context, i int) (switching, error) // makes one, the i-th
}

// run makes n switches; home is the server that has everything then.
func (sw swing) run(ctx context.Context, n int, home string) (*switched, error) {
	t := traffic.New(traffic.Config{Addr: sw.addr, Rate: sw.rate + sw.rate/50, Prefix: sw.prefix}) // what nobody makes up for after a long wait
	loading, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- t.Run(loading) }()
	s := &switched{name: sw.name}
	began := time.Now()
	before, err := processorTime()
	if err == nil {
		err = sw.swing(ctx, t, n, s)
	}
	s.rate = float64(t.Stats().Operations) / time.Since(began).Seconds()
	after, timeErr := processorTime()
	s.busy = after.since(before)
	stop()
	err = errors.Join(err, timeErr)
	if err := errors.Join(err, <-ended); err != nil {
		return nil, fmt.Errorf("%s: %w", sw.name, err)
	}
	if s.account, err = t.Verify(ctx, home); err != nil {
		return nil, fmt.Errorf("%s: %w", sw.name, err)
	}
	return s, nil
}

func (sw swing) swing(ctx context.Context, t *traffic.Traffic, n int, s *switched) error {
	share := int64(sw.rate) / 3
	if err := goOn(ctx, t, int64(sw.rate)); err != nil { // before anything is measured
		return err
	}
	for i := range n {
		t.TakeStall()
		if err := goOn(ctx, t, share); err != nil {
			return err
		}
		calm := t.TakeStall()
		w, err := sw.once(ctx, i)
		if err != nil {
			return fmt.Errorf("switch %d: %w", i+1, err)
		}
		if err := goOn(ctx, t, share); err != nil {
			return err
		}
		w.calm, w.stall = inMS(calm), inMS(t.TakeStall())
		s.list = append(s.list, w)
		if (i+1)%20 == 0 || i+1 == n {
			stalls := s.of(func(w switching) float64 { return w.stall })
			fmt.Printf("%s, %d switches: longest waits %.1f ms at the median, %.1f at most; %d client errors\n",
				sw.name, i+1, quantile(stalls, .5), slices.Max(stalls), t.Stats().Errors)
		}
	}
	return nil
}

func inMS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// goOn waits until clients have made so many operations more.
func goOn(ctx context.Context, t *traffic.Traffic, operations int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("clients do not go on"))
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for from := t.Stats().Operations; t.Stats().Operations < from+operations; {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; the last error: %s", context.Cause(ctx), t.Stats().LastError)
		}
	}
	return nil
}
