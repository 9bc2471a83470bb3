// Command bench measures what a hop costs: a server alone, through crossfade, and through other proxies.
// It owns the servers and proxies that it starts, and the report; every figure is a median over alternating rounds.
// It never compares figures of different runs, and never measures a server of the user's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// options are the flags.
type options struct {
	crossfade  string
	cells      string
	rounds     int
	seconds    float64
	out        string
	check      bool
	hol, bulk  bool
	holRate    float64
	keys       int
	redisShake string
	sync, lag  bool
	switches   int
	promotions int
	rate       int
	shadow     bool
	shadowRate float64
	pages      int
	fleet      string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == copierVerb {
		exit(copier(context.Background(), os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == floorVerb {
		exit(floor(context.Background(), os.Args[2:]))
	}
	var o options
	flag.StringVar(&o.crossfade, "crossfade", "bin/crossfade", "the crossfade `BINARY`")
	flag.StringVar(&o.cells, "cells", "all", "what to measure: all, quick, or `NAMES` with commas between")
	flag.IntVar(&o.rounds, "rounds", 0, "rounds; each measures every way once, in turn (default 5; quick 3)")
	flag.Float64Var(&o.seconds, "seconds", 0, "length of one measurement (default 1.8; quick 0.8; -hol 5)")
	flag.StringVar(&o.out, "out", "", "`FOLDER` for the report and its plot (default: none are written)")
	flag.BoolVar(&o.check, "check", false, "end with status 1 when a claim fails")
	flag.BoolVar(&o.hol, "hol", false, "measure instead what large values do to small ones (head of line)")
	flag.Float64Var(&o.holRate, "hol-rate", 2000, "small requests a second with -hol")
	flag.BoolVar(&o.bulk, "bulk", false, "measure instead what a full copy does to clients")
	flag.BoolVar(&o.sync, "sync", false, "measure instead how fast a full copy is")
	flag.BoolVar(&o.lag, "lag", false, "measure instead how long a write takes to the target")
	flag.IntVar(&o.switches, "switches", 0, "measure instead what `N` switches there and back do to clients")
	flag.IntVar(&o.promotions, "promotions", 20, "and as many promotions of a replica as a comparison, twice; with -switches")
	flag.IntVar(&o.rate, "rate", 10_000, "operations a second with -switches")
	flag.BoolVar(&o.shadow, "shadow", false, "measure instead what shadow reads cost the clients")
	flag.Float64Var(&o.shadowRate, "shadow-rate", 5000, "requests a second with -shadow")
	flag.IntVar(&o.pages, "pages", 0, "measure instead what `N` open dashboards cost the clients")
	flag.StringVar(&o.fleet, "fleet", "", "measure instead what a fleet costs, of so many `MEMBERS`; numbers that rise, with commas between")
	flag.IntVar(&o.keys, "keys", 650_000, "keys that are copied with -bulk and -sync")
	flag.Parse()
	o.redisShake = os.Getenv("REDISSHAKE")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// errClaims says that -check found what it looks for.
var errClaims = errors.New("not all claims hold")

func run(ctx context.Context, o options) (err error) {
	for _, tool := range []string{"redis-benchmark", o.crossfade} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w (scripts/deps.sh bench installs what is missing; make build makes crossfade)", err)
		}
	}
	list, err := choose(o.cells)
	if err != nil {
		return err
	}
	p, err := openPark(ctx, o.crossfade)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close(context.WithoutCancel(ctx))) }()
	var claims []claim
	switch {
	case o.hol:
		claims, err = headOfLine(ctx, o, p)
	case o.sync:
		claims, err = copySpeed(ctx, o, p)
	case o.lag:
		claims, err = lag(ctx, p)
	case o.switches > 0:
		claims, err = switches(ctx, o, p)
	case o.shadow:
		claims, err = shadows(ctx, o, p)
	case o.pages > 0:
		claims, err = openPages(ctx, o, p)
	case o.fleet != "":
		claims, err = fleetCost(ctx, o, p)
	case o.bulk:
		claims, err = besideBulk(ctx, o, p)
	default:
		claims, err = throughput(ctx, o, p, list)
	}
	if err != nil {
		return err
	}
	p.sayf("\n")
	failed := false
	for _, c := range claims {
		p.sayf("%v\n", c)
		failed = failed || !c.pass
	}
	if err := p.keep(o); err != nil {
		return err
	}
	if failed && o.check {
		return errClaims
	}
	return nil
}

// ways are all that can be measured here.
func ways(ctx context.Context, p *park) ([]way, error) {
	list := []way{p.direct()}
	for _, upstream := range []string{shared, pinned} {
		w, err := p.proxied(ctx, upstream)
		if err != nil {
			return nil, fmt.Errorf("crossfade, %s: %w", upstream, err)
		}
		list = append(list, w)
	}
	for _, other := range peers {
		w, ok, err := p.beside(ctx, other)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, w)
		} else {
			fmt.Printf("%s is not here and will not be measured\n", other.name)
		}
	}
	return list, nil
}

// throughput measures the cells.
func throughput(ctx context.Context, o options, p *park, list []cell) ([]claim, error) {
	if o.rounds <= 0 {
		o.rounds = 5
		if o.cells == "quick" {
			o.rounds = 3
		}
	}
	if o.seconds <= 0 {
		o.seconds = 1.8
		if o.cells == "quick" {
			o.seconds = 0.8
		}
	}
	all, err := ways(ctx, p)
	if err != nil {
		return nil, err
	}
	about := describe(ctx, p, all)
	p.banner(about)
	fmt.Printf("%d cells, %d ways, %d rounds of %g s: about %.0f minutes\n\n%s", len(list), len(all), o.rounds, o.seconds,
		float64(len(list)*len(all))*(float64(o.rounds)*(o.seconds+.1)+.4)/60, explain)
	m := &measurer{park: p, ways: all, rounds: o.rounds, seconds: o.seconds, say: os.Stdout}
	var rs results
	for _, c := range list {
		r, err := m.run(ctx, c)
		if err != nil {
			return nil, err
		}
		r.print(os.Stdout, all)
		rs = append(rs, r)
	}
	claims := rs.claims()
	if o.out == "" {
		return claims, nil
	}
	var text, picture strings.Builder
	markdown(&text, about, o.rounds, o.seconds, all, rs, claims)
	plot(&picture, about, rs)
	for name, content := range map[string]string{"results.md": text.String(), "results.svg": picture.String()} {
		path := filepath.Join(o.out, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("writing the report: %w", err)
		}
		fmt.Println("wrote", path)
	}
	return claims, nil
}

// banner says where this is measured.
func (p *park) banner(m machine) {
	p.sayf("%s, %d CPUs, %s, Linux %s, %s\n", m.processor, m.cpus, m.memory, m.kernel, m.date)
	p.sayf("%s\n", strings.Join(m.versions, "; "))
}

// sayf says something of what is measured, and remembers it.
func (p *park) sayf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.said.WriteString(text)
	fmt.Print(text)
}

// keep writes what was said of one of the scenes into the folder of the reports.
func (p *park) keep(o options) error {
	for name, chosen := range map[string]bool{"hol": o.hol, "sync": o.sync, "lag": o.lag, "shadow": o.shadow, "bulk": o.bulk} {
		if !chosen || o.out == "" {
			continue
		}
		path := filepath.Join(o.out, name+".md")
		text := "# `make bench-" + made[name] + "`\n\nWhat it said; do not edit.\n\n```\n" + p.said.String() + "```\n"
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
		fmt.Println("wrote", path)
	}
	return nil
}

// made are the targets that measure the scenes.
var made = map[string]string{"hol": "hol", "sync": "sync", "lag": "sync", "shadow": "shadow", "bulk": "bulk"}
