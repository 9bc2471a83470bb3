package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crossfade/crossfade/bench/load"
	"github.com/redis/go-redis/v9"
)

// holClients ask for small values while others fetch large ones.
const holClients = 20

// pair is one way in one round: without and with the others.
type pair struct {
	quiet, noisy seen
	large        float64 // MB of large values a second, that the server sent
}

// grown is how much longer the 99th percentile is.
func (p pair) grown() float64 { return p.noisy.p99 / p.quiet.p99 }

// headOfLine measures what two clients that fetch 1 MiB values and one that sits in
// BLPOP do to the small GETs of others, directly and through the proxies. The small
// ones come at a rate that leaves the processors room, and their time runs from when
// they were due, so that a stall counts for all that it delays.
func headOfLine(ctx context.Context, o options, p *park) ([]claim, error) {
	if o.rounds <= 0 {
		o.rounds = 5
	}
	if o.seconds <= 0 {
		o.seconds = 5
	}
	list := []way{p.direct()}
	for _, upstream := range []string{shared, pinned} {
		w, err := p.proxied(ctx, upstream)
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	if w, ok, err := p.beside(ctx, haproxy); err != nil {
		return nil, err
	} else if ok {
		list = append(list, w)
	}
	p.banner(describe(ctx, p, list))
	p.sayf("%d clients GET 64 B at %.0f/s in all; with and without two clients that GET 1 MiB\nas fast as they can and one in BLPOP. %d rounds of %g s each.\n", holClients, o.holRate, o.rounds, o.seconds)
	m := &measurer{park: p}
	c := cell{op: "get", clients: holClients, size: small}
	if err := m.fill(ctx, c); err != nil {
		return nil, err
	}
	if err := p.source.Client(0).Set(ctx, "large", slices.Repeat([]byte("x"), large), 0).Err(); err != nil {
		return nil, err
	}
	rounds := make(map[string][]pair)
	for round := range o.rounds {
		for i := range list {
			w := list[(i+round)%len(list)]
			got, err := p.pair(ctx, o, c, w)
			if err != nil {
				return nil, fmt.Errorf("round %d, %s: %w", round+1, w.name, err)
			}
			rounds[w.name] = append(rounds[w.name], got)
		}
	}
	p.sayf("\n%-10s%12s%12s%12s%12s%8s%12s\n", "", "p50", "p99", "p50 beside", "p99 beside", "ratio", "large MB/s")
	for _, w := range list {
		of := func(f func(pair) float64) float64 { return medianOf(rounds[w.name], f) }
		p.sayf("%-10s%12.3f%12.3f%12.3f%12.3f%8.1f%12.0f\n", w.name,
			of(func(p pair) float64 { return p.quiet.p50 }), of(func(p pair) float64 { return p.quiet.p99 }),
			of(func(p pair) float64 { return p.noisy.p50 }), of(func(p pair) float64 { return p.noisy.p99 }),
			of(pair.grown), of(func(p pair) float64 { return p.large }))
	}
	for _, w := range list {
		if got := medianOf(rounds[w.name], func(p pair) float64 { return p.noisy.rate }); got < reached*o.holRate {
			p.sayf("%s answered only %.0f/s beside the others: with -hol-rate %.0f this machine is too slow\n", w.name, got, o.holRate)
		}
	}
	var claims []claim
	for _, way := range []string{shared, pinned} {
		claims = append(claims, holClaim(way, rounds))
	}
	return claims, nil
}

// holClaim compares the ratios of the same round.
func holClaim(way string, rounds map[string][]pair) claim {
	const most = 2
	var ratios []float64
	for i, p := range rounds[way] {
		ratios = append(ratios, p.grown()/rounds[direct][i].grown())
	}
	got := median(ratios)
	return claim{fmt.Sprintf("beside large values, p99 of small ones grows %s at most %d times as much as direct", way, most),
		got <= most, fmt.Sprintf("%.2f times", got)}
}

func medianOf[T any](list []T, of func(T) float64) float64 {
	var values []float64
	for _, v := range list {
		values = append(values, of(v))
	}
	return median(values)
}

// pair measures a way without and with the others.
func (p *park) pair(ctx context.Context, o options, c cell, w way) (pair, error) {
	cfg := load.Config{Addr: w.addr, Clients: c.clients, Rate: o.holRate, For: time.Duration(o.seconds * float64(time.Second)), Next: c.requests()}
	quiet, err := load.Run(ctx, cfg)
	if err != nil {
		return pair{}, err
	}
	if ctx.Err() != nil {
		return pair{}, context.Cause(ctx)
	}
	stop, err := p.crowd(ctx, w)
	if err != nil {
		return pair{}, err
	}
	defer stop()
	control := p.source.Client(0)
	defer func() { _ = control.Close() }()
	before, err := bytesSent(ctx, control)
	if err != nil {
		return pair{}, err
	}
	noisy, err := load.Run(ctx, cfg)
	if err != nil {
		return pair{}, err
	}
	after, err := bytesSent(ctx, control)
	if err != nil {
		return pair{}, err
	}
	if ctx.Err() != nil {
		return pair{}, context.Cause(ctx)
	}
	return pair{seenOf(quiet), seenOf(noisy), float64(after-before) / 1e6 / noisy.Elapsed.Seconds()}, nil
}

// crowd has two clients fetch large values and one wait for an element that never
// comes, until stop is called. It returns once they are at it.
func (p *park) crowd(ctx context.Context, w way) (stop func(), err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.addr)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "*3\r\n$5\r\nBLPOP\r\n$6\r\nnobody\r\n$1\r\n0\r\n"); err != nil {
		_ = conn.Close()
		return nil, err
	}
	host, port, _ := net.SplitHostPort(w.addr)
	hogs, err := launch("redis-benchmark", filepath.Join(p.dir, "hogs.log"), "redis-benchmark",
		"-h", host, "-p", port, "-c", "2", "-n", strconv.Itoa(1<<30), "-q", "GET", "large")
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	stop = func() {
		hogs.stop()
		_ = os.Remove(hogs.log) // it grows by a line a quarter of a second
		_ = conn.Close()
	}
	if err := p.atIt(ctx, hogs); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// atIt waits until one client is blocked and large values flow.
func (p *park) atIt(ctx context.Context, hogs *process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("the other clients have not begun after 10 s"))
	defer cancel()
	control := p.source.Client(0)
	defer func() { _ = control.Close() }()
	begin, err := bytesSent(ctx, control)
	if err != nil {
		return err
	}
	for {
		info, err := control.InfoMap(ctx, "clients").Result()
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		sent, err := bytesSent(ctx, control)
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		if info["Clients"]["blocked_clients"] == "1" && sent-begin > 16*large {
			return nil
		}
		select {
		case <-hogs.done:
			return fmt.Errorf("redis-benchmark has ended: %s", hogs.words())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// bytesSent is what the server has sent to all clients, ever.
func bytesSent(ctx context.Context, c *redis.Client) (int64, error) {
	info, err := c.InfoMap(ctx, "stats").Result()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(info["Stats"]["total_net_output_bytes"]), 10, 64)
}
