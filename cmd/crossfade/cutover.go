package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration"
)

func cutoverVerb() *verb {
	return &verb{name: "cutover", short: "move the clients to the target", run: switchWith("cutover", (*admin.Client).Cutover), long: `
Waits until the target is level, holds the clients for a moment, makes the
source refuse writes, copies the rest and lets the clients go on at the target.
What fails, or takes longer than --max-stall, is taken back and nothing has
happened. It goes on when this command is interrupted: crossfade
abort takes it back.
` + waysToSwitch + `
As long as the file of cutover.postpone_file exists a cutover waits in any case.

Where status says that there will be no way back (the target is a cluster), it
is refused without --one-way.`}
}

// waysToSwitch is in the help of both verbs.
const waysToSwitch = `
  --when-ready --max-stall 20ms --max-lag 10ms --timeout 10m
      waits until the copy is close enough, and tries again when it took longer
  --at 2026-11-26T03:00:00Z, or --at 03:00
      waits until then (cutover.time_zone says whose clock)
  --dry-run
      takes all steps up to the moment at which clients would wait, and back
  --rehearse
      holds the clients for a moment, copies the rest, compares, lets them go on
      where they were, and says what the switch would have cost them

A switch that waits does so in the sidecar, and over its restarts.`

type switchCall func(*admin.Client, context.Context, admin.SwitchRequest) (migration.Report, error)

// switchWith is cutover and rollback: the same with another call.
func switchWith(name string, call switchCall) func(context.Context, *session) error {
	return func(ctx context.Context, s *session) error {
		f := s.flagsOf(append([]string{"max-stall", "cutover.max_stall"}, doorFlags...)...)
		dryRun := f.set.Bool("dry-run", false, "go as far as clients notice nothing, and take it back")
		rehearse := f.set.Bool("rehearse", false, "hold the clients, but do not move them, and say what it cost")
		oneWay := false
		if name == "cutover" {
			f.set.BoolVar(&oneWay, "one-way", false, "accept that there will be no way back, where status and check say so")
		}
		whenReady := f.set.Bool("when-ready", false, "wait until the copy is close enough")
		at := f.set.String("at", "", "wait until that `TIME`: 2026-11-26T03:00:00Z, or 03:00")
		maxLag := f.set.Duration("max-lag", 0, "how far the copy may be behind when it begins; 0: as the sidecar's cutover.max_lag says")
		timeout := f.set.Duration("timeout", 0, "give up when it had to wait for so long, from --at on; 0: never; without this flag the sidecar's cutover.timeout")
		retries := f.set.Int("retries", 0, "so many attempts more when clients would have waited longer than --max-stall; without this flag the sidecar's cutover.retries for a switch that waits, and none else")
		asJSON := f.set.Bool("json", false, "print JSON")
		c, err := f.parse()
		if err != nil {
			return err
		}
		request := admin.SwitchRequest{DryRun: *dryRun, Rehearse: *rehearse, OneWay: oneWay, WhenReady: *whenReady, At: *at}
		waits := *whenReady || *at != "" || f.given("timeout", "retries")
		switch {
		case *dryRun && *rehearse:
			return usage(fmt.Errorf("%s: --dry-run and --rehearse: give one of the two", name))
		case waits && (*dryRun || *rehearse):
			return usage(fmt.Errorf("%s: --dry-run and --rehearse wait for nothing: leave --when-ready, --at, --timeout and --retries out", name))
		case f.given("timeout") && *timeout < 0, f.given("max-lag") && *maxLag < 0, f.given("retries") && *retries < 0:
			return usage(fmt.Errorf("%s: --timeout, --max-lag and --retries are not negative", name))
		}
		if *at != "" {
			if _, err := c.Cutover.Moment(*at, time.Now()); err != nil {
				return usage(fmt.Errorf("%s: --at: %w", name, err))
			}
		}
		if *maxLag > 0 {
			request.MaxLag = maxLag.String()
		}
		if f.given("timeout") {
			request.Timeout = timeout.String()
		}
		if f.given("retries") {
			request.Retries = retries
		}
		if f.given("max-stall", "cutover.max_stall") {
			request.MaxStall = c.Cutover.MaxStall.String()
		}
		return switchOver(ctx, f, c, name, request, *asJSON, call)
	}
}

func switchOver(ctx context.Context, f *flags, c config.Config, name string, request admin.SwitchRequest, asJSON bool, call switchCall) error {
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	stop := func() {}
	if !asJSON {
		stop = watchSwitch(ctx, c, f.stderr)
	}
	r, err := call(door, ctx, request)
	stop()
	var signal *signalError
	var answered *admin.Error
	switch {
	case errors.As(err, &signal):
		say(f.stderr, fmt.Sprintf("the %s goes on in the sidecar, or waits there; see %s, end it with %s", name, f.again("status"), f.again("abort")))
		return err
	case errors.As(err, &answered) && answered.Report != nil && !asJSON:
		_, _ = io.WriteString(f.stdout, renderSteps(*answered.Report))
		return err
	case err != nil:
		return f.failed(err, asJSON)
	case asJSON:
		return printJSON(f.stdout, r)
	}
	_, err = io.WriteString(f.stdout, renderReport(r, name, f.again))
	return err
}

// failed prints what the sidecar answered as JSON when that was asked for.
func (s *session) failed(err error, asJSON bool) error {
	var answered *admin.Error
	if asJSON && errors.As(err, &answered) {
		return errors.Join(err, printJSON(s.stdout, answered))
	}
	return err
}

// watchSwitch prints the steps of the attempt that begins now as they are finished,
// until stop is called, which waits. Trouble with it is none of the attempt's.
func watchSwitch(ctx context.Context, c config.Config, w io.Writer) (stop func()) {
	door, err := client(c) // a connection of its own
	if err != nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var before *migration.Report
	if st, err := door.Status(ctx); err == nil {
		before = st.LastCutover
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer door.Close()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		shown := progressShown{before: before}
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if st, err := door.Status(ctx); err == nil {
				shown.show(w, st)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// progressShown is what was said already about an attempt.
type progressShown struct {
	before *migration.Report // the attempt before this one
	phase  migration.Phase
	steps  int
	why    []string
}

func (p *progressShown) show(w io.Writer, st migration.Status) {
	if r := st.LastCutover; r != nil && r.Finished.IsZero() && (p.before == nil || !r.Started.Equal(p.before.Started)) {
		for ; p.steps < len(r.Steps); p.steps++ {
			_, _ = fmt.Fprintf(w, "%-12s %8.1f ms\n", r.Steps[p.steps].Name, r.Steps[p.steps].MS)
		}
		return
	}
	if st.Phase.Switching() {
		if st.Phase != p.phase {
			p.phase = st.Phase
			_, _ = fmt.Fprintf(w, "%s\n", st.Phase)
		}
		return
	}
	why := st.Reasons
	if st.Waiting != nil {
		why = st.Waiting.For
	}
	if !slices.Equal(why, p.why) {
		p.why = why
		for _, reason := range why {
			_, _ = fmt.Fprintf(w, "waiting: %s\n", reason)
		}
	}
}
