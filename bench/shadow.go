package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/bench/load"
	"github.com/crossfade/crossfade/internal/demo/sidecar"
)

const (
	shadowPercent = 10
	shadowMost    = 5 // percent that the clients' 99th percentile may grow
)

// shadows measures what shadow reads cost the clients: the same load at the same rate
// through one sidecar whose copy is live, with every tenth read asked of the target too
// and without, in turn. The rate leaves the processors room, and the time of a request
// runs from when it was due.
func shadows(ctx context.Context, o options, p *park) ([]claim, error) {
	if o.rounds <= 0 {
		o.rounds = 15
	}
	if o.seconds <= 0 {
		o.seconds = 4
	}
	c := cell{op: "mixed", clients: 50, pipeline: 1, size: small}
	s, w, m, err := p.live(ctx, "shadow", c)
	if err != nil {
		return nil, err
	}
	p.sayf("%s, at %.0f/s in all, every write copied to the target;\nwith and without %d %% of the reads asked of the target too. %d rounds of %g s each.\n",
		c, o.shadowRate, shadowPercent, o.rounds, o.seconds)
	cfg := load.Config{Addr: w.addr, Clients: c.clients, Rate: o.shadowRate, For: time.Duration(o.seconds * float64(time.Second)), Next: c.requests()}
	var without, with []figures
	for round := range o.rounds + 1 { // the first one is not counted
		for i := range 2 {
			on := (i+round)%2 == 1
			if err := shade(ctx, s, on); err != nil {
				return nil, err
			}
			f, err := p.shaded(ctx, m, w, cfg)
			if err != nil {
				return nil, fmt.Errorf("round %d: %w", round, err)
			}
			switch {
			case round == 0:
			case on:
				with = append(with, f)
			default:
				without = append(without, f)
			}
		}
	}
	r, err := s.Admin().Shadow(ctx, admin.ShadowRequest{})
	if err != nil {
		return nil, err
	}
	p.sayf("\n%-10s%12s%10s%10s%10s%16s%16s\n", "", "answered/s", "p50", "p99", "p999", "proxy µs each", "source µs each")
	for _, row := range []struct {
		name string
		list []figures
	}{{"without", without}, {"with", with}} {
		p.sayf("%-10s%12.0f%10.3f%10.3f%10.3f%16.1f%16.1f\n", row.name, medianOf(row.list, rateOf), medianOf(row.list, p50Of), medianOf(row.list, p99Of),
			medianOf(row.list, p999Of), medianOf(row.list, proxyOf), medianOf(row.list, serverOf))
	}
	p.sayf("\n%d reads asked twice, %d the same, %d behind for a moment, %d differing, %d not settled, %d skipped;\nsource p50 %.3f p99 %.3f ms, target p50 %.3f p99 %.3f ms\n",
		r.Asked.Reads, r.Equal, r.Behind, r.Differing, r.Unsettled, r.Asked.Skipped, r.Asked.SourceMS.P50, r.Asked.SourceMS.P99, r.Asked.TargetMS.P50, r.Asked.TargetMS.P99)
	if medianOf(with, rateOf) < reached*o.shadowRate {
		p.sayf("only %.0f of %.0f requests a second were answered: with -shadow-rate %.0f this machine is too slow\n", medianOf(with, rateOf), o.shadowRate, o.shadowRate)
	}
	return append(shadowClaims(without, with),
		claim{"shadow reads report no difference where there is none", r.Differing == 0 && r.Asked.Reads > 0, fmt.Sprintf("%d of %d", r.Differing, r.Asked.Reads)}), nil
}

// shadowClaims compares the 99th percentiles of the same round.
func shadowClaims(without, with []figures) []claim {
	var ratios []float64
	for i := range with {
		ratios = append(ratios, with[i].p99/without[i].p99)
	}
	got := 100 * (median(ratios) - 1)
	return []claim{{fmt.Sprintf("%d %% shadow reads cost the clients less than %d %% of p99", shadowPercent, shadowMost), got < shadowMost, fmt.Sprintf("%+.1f %%", got)}}
}

// shade turns shadow reads on or off, and waits until they are.
func shade(ctx context.Context, s *sidecar.Process, on bool) error {
	percent, want := 0, "off"
	if on {
		percent, want = shadowPercent, "on"
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("shadow reads are not "+want+" after 10 s"))
	defer cancel()
	for {
		r, err := s.Admin().Shadow(ctx, admin.ShadowRequest{Percent: &percent})
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		if r.State == want {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), r.Why)
		}
	}
}

// shaded is one measurement.
func (p *park) shaded(ctx context.Context, m *measurer, w way, cfg load.Config) (figures, error) {
	before, err := m.times(w)
	if err != nil {
		return figures{}, err
	}
	got, err := load.Run(ctx, cfg)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return figures{}, err
	}
	after, err := m.times(w)
	if err != nil {
		return figures{}, err
	}
	f := figures{seen: seenOf(got)}
	each := func(i int) float64 { return float64((after[i] - before[i]).Microseconds()) / float64(f.requests) }
	f.server, f.proxy = each(0), each(1)
	return f, nil
}
