// Command suites runs the test suites of Redis and of its clients twice, against a server alone and through crossfade, and compares them test by test.
// It owns the servers, the sidecars and a cache folder with what it fetched; a test that passes directly must pass through the proxy or be listed with a reason.
// It never runs a suite against a server of the user's, and lets none of them reach further than the loopback interface where the system allows that.
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
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// suite is one set of tests as its authors run it.
type suite struct {
	name, title string
	limit       time.Duration
	port        int // where it looks for the server; 0 is told to it
	least       int // tests that must have passed directly: of a run that broke off nothing is to be learned

	// fetch brings the suite into dir and builds it; it is done once. It is the
	// only part that reaches the network.
	fetch func(ctx context.Context, dir string) error
	// run runs the tests, all of them or those of some groups, and reads what came
	// out. An error means that it did not run, not that tests failed.
	run func(ctx context.Context, dir string, w *way, groups []string) (*results, error)
}

var all = []suite{redisSuite, goRedisSuite, nodeRedisSuite, hiredisSuite, redisPySuite}

// options are the flags.
type options struct {
	crossfade, cache string
	modes            string
	names            []string
}

// inside marks the process that has a network of its own.
const inside = "SUITES_INSIDE"

func main() {
	if filepath.Base(os.Args[0]) == "docker" {
		os.Exit(docker(os.Args[1:]))
	}
	var o options
	flag.StringVar(&o.crossfade, "crossfade", "bin/crossfade", "the crossfade `BINARY`")
	flag.StringVar(&o.cache, "cache", "bin/suites", "`FOLDER` for what is fetched and built")
	flag.StringVar(&o.modes, "modes", "shared,pinned", "of the proxy's upstream: shared, pinned, or both with a comma")
	flag.Usage = usage
	flag.Parse()
	o.names = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0: // it has said why
		os.Exit(exit.ExitCode())
	case err != nil:
		_, _ = fmt.Fprintln(os.Stderr, "suites:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(flag.CommandLine.Output(), "usage: suites [flags] [suite …], where the suites are:")
	for _, s := range all {
		fmt.Fprintf(flag.CommandLine.Output(), "  %-10s %s\n", s.name, s.title)
	}
	flag.PrintDefaults()
}

// run fetches in this process, and starts itself again without a network for the
// tests.
func run(ctx context.Context, o options) (err error) {
	chosen, err := choose(o.names)
	if err != nil {
		return err
	}
	for _, path := range []*string{&o.crossfade, &o.cache} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if os.Getenv(inside) == "" {
		for _, s := range chosen {
			if err := fetched(ctx, o.cache, s); err != nil {
				return fmt.Errorf("fetching the suite %s: %w", s.name, err)
			}
		}
		return apart(ctx, append(os.Environ(), inside+"=yes"))
	}
	if err := settleIn(); err != nil {
		return fmt.Errorf("bringing the loopback interface up: %w", err)
	}
	redistest.SilenceClients()
	bad := 0
	for _, s := range chosen {
		n, err := compareSuite(ctx, o, s)
		if err != nil {
			return fmt.Errorf("the suite %s: %w", s.name, err)
		}
		bad += n
	}
	if bad > 0 {
		return fmt.Errorf("%d tests differ for no listed reason", bad)
	}
	return nil
}

func choose(names []string) ([]suite, error) {
	if len(names) == 0 {
		return all, nil
	}
	var out []suite
	for _, name := range names {
		found := false
		for _, s := range all {
			if s.name == name {
				out, found = append(out, s), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no suite %q", name)
		}
	}
	return out, nil
}

// fetched makes sure that a suite is there. A file beside its folder says that
// nothing is missing.
func fetched(ctx context.Context, cache string, s suite) error {
	dir := filepath.Join(cache, s.name)
	done := dir + ".fetched"
	if _, err := os.Stat(done); err == nil {
		return nil
	}
	fmt.Printf("fetching the suite %s, once\n", s.name)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	if err := s.fetch(ctx, dir); err != nil {
		return err
	}
	return os.WriteFile(done, nil, 0o644)
}

// compareSuite runs a suite each way and says how many tests differ without a
// reason.
func compareSuite(ctx context.Context, o options, s suite) (int, error) {
	known, err := readExceptions(s.name)
	if err != nil {
		return 0, err
	}
	fmt.Printf("\n%s\n", s.title)
	printLeftOut(known.leftOut())
	direct, err := measure(ctx, o, s, "", nil)
	if err != nil {
		return 0, err
	}
	if n := direct.count(passed); n < s.least {
		return 0, fmt.Errorf("%d tests of %s have passed directly, at least %d do in a whole run: see what it said, there is too little to compare with", n, s.name, s.least)
	}
	printCounts("direct", direct)
	modes := strings.Split(o.modes, ",")
	bad := 0
	for _, mode := range modes {
		through, err := measure(ctx, o, s, mode, nil)
		if err != nil {
			return 0, err
		}
		found := differences(direct, through, known.of(mode))
		for range tries {
			if err := tryAgain(ctx, o, s, mode, found); err != nil {
				return 0, err
			}
		}
		printCounts("through, "+mode, through)
		bad += printAll(found)
	}
	return bad, nil
}

// tries is how often what differs without a listed reason, or by a race, is run again.
// Where tests of two connections race, a machine with other work makes some differ that
// pass the next time.
const tries = 2

// tryAgain runs the groups of differences that may pass another time once more, and notes
// which of them passed now.
func tryAgain(ctx context.Context, o options, s suite, mode string, found []difference) error {
	tests := undecided(found)
	if len(tests) == 0 {
		return nil
	}
	got, err := measure(ctx, o, s, mode, groupsOf(tests))
	if err != nil {
		return err
	}
	note(found, tests, got)
	return nil
}

// measure runs a suite one way; mode "" is without the proxy.
func measure(ctx context.Context, o options, s suite, mode string, groups []string) (got *results, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.limit, fmt.Errorf("not done after %v", s.limit))
	defer cancel()
	w := &way{crossfade: o.crossfade, mode: mode, again: len(groups) > 0}
	defer func() { err = errors.Join(err, w.close(context.WithoutCancel(ctx))) }()
	if w.dir, err = os.MkdirTemp("", "suites-"); err != nil {
		return nil, err
	}
	if err := w.start(ctx, s.port); err != nil {
		return nil, err
	}
	from := time.Now()
	if got, err = s.run(ctx, filepath.Join(o.cache, s.name), w, groups); err != nil {
		return nil, err
	}
	got.took = time.Since(from)
	return got, nil
}
