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
abort takes it back.`}
}

type switchCall func(*admin.Client, context.Context, admin.SwitchRequest) (migration.Report, error)

// switchWith is cutover and rollback: the same with another call.
func switchWith(name string, call switchCall) func(context.Context, *session) error {
	return func(ctx context.Context, s *session) error {
		f := s.flagsOf(append([]string{"max-stall", "cutover.max_stall"}, doorFlags...)...)
		dryRun := f.set.Bool("dry-run", false, "make all checks and change nothing")
		asJSON := f.set.Bool("json", false, "print JSON")
		c, err := f.parse()
		if err != nil {
			return err
		}
		request := admin.SwitchRequest{DryRun: *dryRun}
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
		say(f.stderr, fmt.Sprintf("the %s goes on in the sidecar; see %s, take it back with %s", name, f.again("status"), f.again("abort")))
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
	if !st.Ready && !slices.Equal(st.Reasons, p.why) {
		p.why = st.Reasons
		for _, reason := range st.Reasons {
			_, _ = fmt.Fprintf(w, "waiting: %s\n", reason)
		}
	}
}
