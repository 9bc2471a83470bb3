package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// figures are what redis-benchmark says of one test.
type figures struct {
	rate     float64 // requests a second
	p50, p99 float64 // ms
}

// measureAll goes through the pipelines, measures the ways in turn, and prints a
// table for each.
func measureAll(ctx context.Context, o options, ways []way) error {
	if _, err := exec.LookPath("redis-benchmark"); err != nil {
		return errors.New("no redis-benchmark in PATH: it comes with Debian's redis-tools")
	}
	for _, text := range strings.Split(o.pipelines, ",") {
		depth, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || depth < 1 {
			return fmt.Errorf("-pipelines %q: %q is no number from 1 on", o.pipelines, text)
		}
		results := make([]map[string][]figures, len(ways)) // way → test → rounds
		for i := range results {
			results[i] = make(map[string][]figures)
		}
		var order []string
		for round := range o.rounds {
			for i := range ways {
				which := (i + round) % len(ways) // nobody is always the first
				got, err := measure(ctx, o, ways[which].addr, depth)
				if err != nil {
					return fmt.Errorf("measuring %s: %w", ways[which].name, err)
				}
				for _, g := range got {
					if !slices.Contains(order, g.test) {
						order = append(order, g.test)
					}
					results[which][g.test] = append(results[which][g.test], g.figures)
				}
			}
		}
		printTable(ways, order, results, depth)
	}
	return nil
}

// named are the figures of one test.
type named struct {
	test string
	figures
}

// measure runs redis-benchmark once.
func measure(ctx context.Context, o options, addr string, depth int) ([]named, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n := o.requests
	if depth > 1 {
		n *= 4
	}
	cmd := exec.CommandContext(ctx, "redis-benchmark", "-h", host, "-p", port, "--csv", "-t", o.tests,
		"-n", strconv.Itoa(n), "-c", strconv.Itoa(o.clients), "-P", strconv.Itoa(depth), "-r", "100000")
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: %s%s", err, problems.String(), out)
	}
	return read(out)
}

// read understands the table of `redis-benchmark --csv`.
func read(out []byte) ([]named, error) {
	rows, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
	if err == nil && len(rows) < 2 {
		err = errors.New("too few lines")
	}
	if err != nil {
		return nil, fmt.Errorf("redis-benchmark printed no table: %w: %s", err, out)
	}
	column := make(map[string]int)
	for i, name := range rows[0] {
		column[name] = i
	}
	var list []named
	for _, row := range rows[1:] {
		g := named{test: row[0]}
		for name, into := range map[string]*float64{"rps": &g.rate, "p50_latency_ms": &g.p50, "p99_latency_ms": &g.p99} {
			i, there := column[name]
			if !there || i >= len(row) {
				return nil, fmt.Errorf("redis-benchmark's table has no %s: %s", name, out)
			}
			if *into, err = strconv.ParseFloat(row[i], 64); err != nil {
				return nil, fmt.Errorf("redis-benchmark's table: %s of %s: %w", name, row[0], err)
			}
		}
		list = append(list, g)
	}
	return list, nil
}

// printTable writes medians, and of each way the share of the first one's rate.
func printTable(ways []way, tests []string, results []map[string][]figures, depth int) {
	fmt.Printf("pipeline %d\n%-12s %-11s %12s %6s %10s %10s\n", depth, "test", "way", "requests/s", "share", "p50 ms", "p99 ms")
	for _, test := range tests {
		first := median(results[0][test], func(f figures) float64 { return f.rate })
		for i, w := range ways {
			list := results[i][test]
			rate := median(list, func(f figures) float64 { return f.rate })
			fmt.Printf("%-12s %-11s %12.0f %4.0f %% %10.3f %10.3f\n", test, w.name, rate, 100*rate/first,
				median(list, func(f figures) float64 { return f.p50 }), median(list, func(f figures) float64 { return f.p99 }))
		}
	}
	fmt.Println()
}

func median(list []figures, of func(figures) float64) float64 {
	if len(list) == 0 {
		return 0
	}
	values := make([]float64, len(list))
	for i, f := range list {
		values[i] = of(f)
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}
