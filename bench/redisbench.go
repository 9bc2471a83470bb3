package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// seen is what a load generator says of one measurement.
type seen struct {
	requests       int64
	rate           float64 // requests a second
	p50, p99, p999 float64 // ms
}

// redisBenchmark asks n times, with a time limit that is no part of the
// measurement: it would try for ever where a connection is refused.
func redisBenchmark(ctx context.Context, c cell, addr string, n int64, limit time.Duration) (seen, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return seen{}, err
	}
	if err := awaitPong(ctx, addr, nil); err != nil {
		return seen{}, err
	}
	args := []string{"-h", host, "-p", port, "--precision", "3",
		"-c", strconv.Itoa(c.clients), "-P", strconv.Itoa(c.pipeline), "-n", strconv.FormatInt(n, 10),
		"-r", strconv.Itoa(c.keys()), "-d", strconv.Itoa(c.size)}
	if c.resp3 {
		args = append(args, "-3")
	}
	switch c.op {
	case "get", "set":
		args = append(args, "-t", c.op)
	case "mget":
		args = append(args, "MGET")
		args = append(args, slices.Repeat([]string{"key:__rand_int__"}, mgetKeys)...)
	default:
		return seen{}, fmt.Errorf("redis-benchmark cannot do %s", c.op)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("redis-benchmark took longer than %v", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, "redis-benchmark", args...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return seen{}, context.Cause(ctx)
	}
	if err != nil {
		return seen{}, fmt.Errorf("redis-benchmark: %w: %.300s%.300s", err, problems.String(), out)
	}
	s, err := parseReport(string(out))
	if err != nil {
		return seen{}, fmt.Errorf("redis-benchmark's report: %w:\n%.2000s", err, out)
	}
	s.requests = n
	return s, nil
}

// parseReport reads what redis-benchmark prints for people: its CSV has no 99.9th
// percentile.
func parseReport(text string) (s seen, err error) {
	if _, after, ok := strings.Cut(text, "throughput summary:"); ok {
		rate, _, _ := strings.Cut(after, "requests per second")
		if s.rate, err = strconv.ParseFloat(strings.TrimSpace(rate), 64); err != nil {
			return s, fmt.Errorf("the throughput: %w", err)
		}
		if s.p50, s.p99, err = parseSummary(after); err != nil {
			return s, err
		}
	} else {
		return s, errors.New("no throughput in it")
	}
	_, dist, ok := strings.Cut(text, "Latency by percentile distribution:")
	if !ok {
		return s, errors.New("no percentiles in it")
	}
	for line := range strings.Lines(dist) {
		if strings.HasPrefix(line, "Cumulative distribution") {
			break
		}
		percent, rest, ok := strings.Cut(line, "% <= ")
		if !ok {
			continue
		}
		ms, _, _ := strings.Cut(rest, " ")
		p, err := strconv.ParseFloat(strings.TrimSpace(percent), 64)
		if err != nil {
			return s, fmt.Errorf("a percentile: %w", err)
		}
		if s.p999, err = strconv.ParseFloat(ms, 64); err != nil {
			return s, fmt.Errorf("a percentile's latency: %w", err)
		}
		if p >= 99.9 {
			return s, nil
		}
	}
	if s.p999 == 0 {
		return s, errors.New("no 99.9th percentile in it")
	}
	return s, nil // the largest of a few requests
}

// parseSummary reads the two lines of averages: names, then figures.
func parseSummary(text string) (p50, p99 float64, err error) {
	lines := strings.Split(text, "\n")
	for i, line := range lines[:len(lines)-1] {
		names := strings.Fields(line)
		if !slices.Contains(names, "p50") {
			continue
		}
		values := strings.Fields(lines[i+1])
		if len(values) != len(names) {
			return 0, 0, fmt.Errorf("%d names and %d figures in the summary", len(names), len(values))
		}
		for name, into := range map[string]*float64{"p50": &p50, "p99": &p99} {
			at := slices.Index(names, name)
			if at < 0 {
				return 0, 0, fmt.Errorf("no %s in the summary", name)
			}
			if *into, err = strconv.ParseFloat(values[at], 64); err != nil {
				return 0, 0, fmt.Errorf("%s in the summary: %w", name, err)
			}
		}
		return p50, p99, nil
	}
	return 0, 0, errors.New("no summary of latencies in it")
}
