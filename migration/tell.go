package migration

import (
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/migration/hook"
	"github.com/crossfade/crossfade/router"
)

// because says why the next transition happens.
func (m *Migration) because(why string) {
	m.mu.Lock()
	m.why = why
	m.mu.Unlock()
}

// moved tells of a transition that is persisted. It waits for nobody.
func (m *Migration) moved(was Phase, r Record) {
	m.mu.Lock()
	why, current, mi := m.why, m.current, m.mirror
	m.why = ""
	m.mu.Unlock()
	if why == "" && (r.Phase == Resync || r.Phase == ReverseLost) && mi != nil {
		why = mi.Progress().Reason
	}
	m.opt.Audit.Add(audit.Entry{
		Event: "phase", From: string(was), To: string(r.Phase), Side: r.Side.String(), Epoch: r.Epoch, Token: r.Token,
		Verb: current.words(), Why: why,
	})
	m.traceMove(current, was, r, why)
	e := m.event(strings.ToLower(string(r.Phase)), r)
	e.Was, e.Why = string(was), why
	m.opt.Hooks.Tell(e)
}

// event is what all hooks are told in the same way.
func (m *Migration) event(name string, r Record) hook.Event {
	m.mu.Lock()
	current := m.current
	m.mu.Unlock()
	e := hook.Event{
		Name: name, Time: r.Updated, Migration: r.ID, Phase: string(r.Phase), Side: r.Side.String(), Epoch: r.Epoch, Token: r.Token,
		Source: m.ids[router.Source].url.String(), Target: m.ids[router.Target].url.String(),
	}
	if current != nil {
		e.Verb, e.DryRun, e.Rehearsal = verbOf(current.from), current.dryRun, current.rehearse
	}
	return e
}

// attempted is the kind of the attempt that is under way.
type attempted struct {
	from             router.Side
	dryRun, rehearse bool
	span             trace.Span
}

func (a *attempted) words() string {
	switch {
	case a == nil:
		return ""
	case a.dryRun:
		return verbOf(a.from) + " --dry-run"
	case a.rehearse:
		return verbOf(a.from) + " --rehearse"
	}
	return verbOf(a.from)
}

// ended tells how an attempt has ended.
func (a *attempt) ended(err error) {
	name := "switched"
	switch {
	case err != nil:
		name = "aborted"
	case a.opt.DryRun || a.opt.Rehearse:
		name = "rehearsed"
	}
	e := a.event(name, a.record())
	e.Time = a.report.Finished
	e.Report = *a.report
	if err != nil {
		e.Why = err.Error()
	}
	a.Migration.opt.Hooks.Tell(e)
	result := "ok"
	if err != nil {
		result = "failed"
	}
	a.Migration.opt.Audit.Add(audit.Entry{Event: name, Verb: a.current.words(), Result: result, MS: ms(a.report.Finished.Sub(a.report.Started)), Side: e.Side, Why: e.Why})
}

// tellOfWaiting tells of an appointment that is made or dropped.
func (m *Migration) tellOfWaiting(name string, a Appointment, why string) {
	e := m.event(name, m.record())
	e.Time, e.Verb, e.Why = time.Now(), a.verb(), why
	m.opt.Hooks.Tell(e)
	m.opt.Audit.Add(audit.Entry{Event: name, Verb: a.verb(), Side: e.Side, Why: why})
}
