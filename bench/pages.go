package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/bench/load"
)

const pagesMost = 2 // percent of the throughput that open dashboards may cost

// openPages measures what open dashboards cost the clients of a sidecar whose copy is live:
// as many GETs as it answers, with and without o.pages dashboards that follow its events, in
// turn. Whoever reads the events is this process, on the same processors, as browsers are not.
func openPages(ctx context.Context, o options, p *park) ([]claim, error) {
	if o.rounds <= 0 {
		o.rounds = 60
	}
	if o.seconds <= 0 {
		o.seconds = 1
	}
	c := cell{op: "get", clients: 50, pipeline: 1, size: small}
	s, w, m, err := p.live(ctx, "pages", c)
	if err != nil {
		return nil, err
	}
	p.sayf("%s, as fast as they are answered, with and without %d open dashboards. %d rounds of %g s each.\n", c, o.pages, o.rounds, o.seconds)
	cfg := load.Config{Addr: w.addr, Clients: c.clients, For: time.Duration(o.seconds * float64(time.Second)), Next: c.requests()}
	var without, with []figures
	var told int64
	for round := range o.rounds + 1 { // the first one is not counted
		for i := range 2 {
			on, n := (i+round)%2 == 1, 0
			if on {
				n = o.pages
			}
			f, events, err := p.watched(ctx, m, w, cfg, s.Socket(), n)
			if err != nil {
				return nil, fmt.Errorf("round %d: %w", round, err)
			}
			switch {
			case round == 0:
			case on:
				with, told = append(with, f), told+events
			default:
				without = append(without, f)
			}
		}
	}
	p.sayf("\n%-10s%12s%10s%10s%16s\n", "", "answered/s", "p50", "p99", "proxy µs each")
	for _, row := range []struct {
		name string
		list []figures
	}{{"without", without}, {"with", with}} {
		p.sayf("%-10s%12.0f%10.3f%10.3f%16.2f\n", row.name, medianOf(row.list, rateOf), medianOf(row.list, p50Of), medianOf(row.list, p99Of), medianOf(row.list, proxyOf))
	}
	each := float64(told) / float64(o.rounds*o.pages) / o.seconds
	return []claim{pagesClaim(o.pages, without, with), {"each of them is told how it stands every second", each > 0.7, fmt.Sprintf("%.2f times a second", each)}}, nil
}

// pagesClaim compares the throughputs of the same round.
func pagesClaim(pages int, without, with []figures) claim {
	var ratios []float64
	for i := range with {
		ratios = append(ratios, with[i].rate/without[i].rate)
	}
	got := 100 * (1 - median(ratios))
	return claim{fmt.Sprintf("%d open dashboards cost less than %d %% of the throughput", pages, pagesMost), got < pagesMost, fmt.Sprintf("%.1f %%", got)}
}

// watched is one measurement while n dashboards are open. events is how often all of them
// were told how the migration stands meanwhile.
func (p *park) watched(ctx context.Context, m *measurer, w way, cfg load.Config, socket string, n int) (f figures, events int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	var told atomic.Int64
	began := make(chan error, n)
	for range n {
		readers.Go(func() { follow(ctx, socket, began, &told) })
	}
	for range n {
		err = errors.Join(err, <-began)
	}
	if err != nil {
		return figures{}, 0, err
	}
	before := told.Load()
	f, err = p.shaded(ctx, m, w, cfg)
	return f, told.Load() - before, err
}

// follow reads the events of a sidecar as its dashboard does, until the context ends. It says
// when it has begun, or why it has not, and counts in told how often it was told of a status.
func follow(ctx context.Context, socket string, began chan<- error, told *atomic.Int64) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/v1/events", nil)
	if err != nil {
		began <- err
		return
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		began <- fmt.Errorf("opening a dashboard at %s: %w", socket, err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		began <- fmt.Errorf("opening a dashboard at %s: %s", socket, response.Status)
		return
	}
	began <- nil
	for lines := bufio.NewReader(response.Body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if strings.HasPrefix(line, "event: status") {
			told.Add(1)
		}
	}
}
