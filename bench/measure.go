package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/crossfade/crossfade/bench/load"
	"github.com/redis/go-redis/v9"
)

// reached is the share of a rate that counts as all of it.
const reached = 0.98

// figures are what one measurement found.
type figures struct {
	seen
	proxy, server float64 // µs of processor time a request
	rss           float64 // of the proxy, MB
}

// result is all that was measured of one cell.
type result struct {
	cell   cell
	rounds map[string][]figures // by way; one entry a round
	failed map[string]string    // ways that could not do it, and why
}

// measurer measures cells.
type measurer struct {
	park    *park
	ways    []way // the direct one first
	rounds  int
	seconds float64 // of a measurement
	say     io.Writer
}

// run measures a cell: rounds in which each way has its turn. Every way goes
// through an untimed one before.
func (m *measurer) run(ctx context.Context, c cell) (*result, error) {
	if err := m.fill(ctx, c); err != nil {
		return nil, fmt.Errorf("filling the server for %s: %w", c.name, err)
	}
	r := &result{cell: c, rounds: make(map[string][]figures), failed: make(map[string]string)}
	rate := make(map[string]float64)
	for round := range 1 + m.rounds {
		for i := range m.ways {
			w := m.ways[(i+round)%len(m.ways)] // nobody is always the first
			switch {
			case r.failed[w.name] != "":
				continue
			case c.resp3 && !w.resp3:
				r.failed[w.name] = "knows no RESP3"
				continue
			}
			f, err := m.once(ctx, c, w, rate[w.name])
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil && !w.ours() && w.name != direct {
				r.failed[w.name] = err.Error()
				_, _ = fmt.Fprintf(m.say, "%s cannot do %s: %v\n", w.name, c.name, err)
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("measuring %s, %s: %w", c.name, w.name, err)
			}
			rate[w.name] = f.rate
			if round > 0 {
				r.rounds[w.name] = append(r.rounds[w.name], f)
			}
		}
	}
	return r, nil
}

func (w way) ours() bool { return w.name == shared || w.name == pinned }

// once makes one measurement; rate is what is expected, 0 before the first.
func (m *measurer) once(ctx context.Context, c cell, w way, rate float64) (figures, error) {
	before, err := m.times(w)
	if err != nil {
		return figures{}, err
	}
	s, err := m.ask(ctx, c, w.addr, rate)
	if err != nil {
		return figures{}, err
	}
	after, err := m.times(w)
	if err != nil {
		return figures{}, err
	}
	f := figures{seen: s}
	each := func(i int) float64 {
		return float64((after[i] - before[i]).Microseconds()) / float64(s.requests)
	}
	f.server, f.proxy = each(0), each(1)
	if w.pid != 0 {
		if f.rss, err = residentMB(w.pid); err != nil {
			return figures{}, err
		}
	}
	return f, nil
}

// times are the processor times of the server and of the proxy.
func (m *measurer) times(w way) (t [2]time.Duration, err error) {
	if t[0], err = cpuTime(m.park.source.Pid()); err != nil || w.pid == 0 {
		return t, err
	}
	t[1], err = cpuTime(w.pid)
	return t, err
}

// ask puts the load on addr. redis-benchmark does what it can; it counts in steps
// of 8 µs, which is too coarse for one client, and cannot mix commands.
func (m *measurer) ask(ctx context.Context, c cell, addr string, rate float64) (seen, error) {
	if c.op == "mixed" || c.clients == 1 {
		length := time.Duration(m.seconds * float64(time.Second))
		if rate == 0 {
			length /= 5
		}
		r, err := load.Run(ctx, load.Config{
			Addr: addr, Clients: c.clients, Pipeline: c.pipeline, RESP3: c.resp3, For: length, Next: c.requests(),
		})
		if err != nil {
			return seen{}, err
		}
		return seenOf(r), nil
	}
	limit := 20*time.Second + time.Duration(10*m.seconds*float64(time.Second))
	return redisBenchmark(ctx, c, addr, howMany(c, rate, m.seconds), limit)
}

// howMany requests take about so many seconds. The first time, when there is no
// rate, they are enough to find one.
func howMany(c cell, rate, seconds float64) int64 {
	each := int64(c.clients * c.pipeline)
	switch {
	case rate > 0:
		return max(4*each, int64(rate*seconds))
	case c.size >= large:
		return 4 * each
	}
	return max(5000, 20*each)
}

// seenOf has milliseconds.
func seenOf(r *load.Result) seen {
	ms := func(q float64) float64 { return float64(r.Latency.Quantile(q)) / float64(time.Millisecond) }
	return seen{requests: r.Requests, rate: r.PerSecond(), p50: ms(0.5), p99: ms(0.99), p999: ms(0.999)}
}

// fill makes the server hold the cell's keys and nothing else.
func (m *measurer) fill(ctx context.Context, c cell) error {
	client := m.park.source.Client(0)
	defer func() { _ = client.Close() }()
	if err := client.FlushAll(ctx).Err(); err != nil {
		return err
	}
	value := slices.Repeat([]byte("x"), c.size)
	batch := max(1, min(1000, 8<<20/c.size))
	for from := 0; from < c.keys(); from += batch {
		_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := from; i < min(from+batch, c.keys()); i++ {
				p.Set(ctx, keyName(i), value, 0)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// over is the median of a way's rounds; 0 when there are none.
func (r *result) over(way string, of func(figures) float64) float64 {
	var values []float64
	for _, f := range r.rounds[way] {
		values = append(values, of(f))
	}
	return median(values)
}

// ratio is the median, over the rounds, of a way's figure to another's of the same
// round: what slows a whole round down does not count. 0 when there are none.
func (r *result) ratio(way, to string, of func(figures) float64) float64 {
	var values []float64
	for i := range min(len(r.rounds[way]), len(r.rounds[to])) {
		if base := of(r.rounds[to][i]); base > 0 {
			values = append(values, of(r.rounds[way][i])/base)
		}
	}
	return median(values)
}

func (r *result) has(way string) bool { return len(r.rounds[way]) > 0 }

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}

// What is looked at in figures.
func rateOf(f figures) float64   { return f.rate }
func p50Of(f figures) float64    { return f.p50 }
func p99Of(f figures) float64    { return f.p99 }
func p999Of(f figures) float64   { return f.p999 }
func proxyOf(f figures) float64  { return f.proxy }
func serverOf(f figures) float64 { return f.server }
func rssOf(f figures) float64    { return f.rss }
