package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

const (
	waitEvery   = 20 * time.Millisecond // between two looks at whether it may begin
	waitRefused = time.Second           // before the attempt after one that was refused
	mostDoubled = 4                     // how often a wait between attempts is doubled
)

// errBusy is what a verb gets while another one is under way.
var errBusy = &Refused{[]string{"another operation is under way; see crossfade status"}}

// waiting is an appointment that somebody keeps.
type waiting struct {
	cancel context.CancelCauseFunc
	from   router.Side
	next   time.Time // the next attempt, not before; used by keep alone
	after  string    // why there was an attempt before
	no     int       // refusals so far
	why    []string  // what it waits for; guarded by Migration.mu
}

// appoint makes an appointment and keeps it. ctx ends only with the process: the
// appointment then stays in the record.
func (m *Migration) appoint(ctx context.Context, a Appointment) (Report, error) {
	w, ctx, err := m.book(ctx, nil, a.From)
	if err != nil {
		return Report{}, err
	}
	if err := m.save(true, func(r *Record) { r.Appointment, r.Dropped = &a, nil }); err != nil {
		m.unbook()
		return Report{}, err
	}
	m.tellOfWaiting("waiting", a, "")
	m.log.Info("a switch waits for its moment", "verb", a.verb(), "at", moment(a.At), "until", moment(a.Until), "when_ready", a.WhenReady,
		"max_stall", a.MaxStall.String(), "max_lag", a.MaxLag.String(), "retries", a.Retries)
	return m.keep(ctx, w)
}

// book makes the caller the one who waits to leave from. There is one at a time: is is the
// appointment that it takes over, nil for a new one.
func (m *Migration) book(ctx context.Context, is *Appointment, from router.Side) (*waiting, context.Context, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &waiting{cancel: cancel, from: from}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting != nil || m.rec.Appointment != is {
		cancel(nil)
		return nil, nil, &Refused{[]string{m.waitsAlready()}}
	}
	m.waiting = w
	return w, ctx, nil
}

func (m *Migration) unbook() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting != nil {
		m.waiting.cancel(nil)
		m.waiting = nil
	}
}

// waitsAlready is said to who asks for another switch meanwhile.
func (m *Migration) waitsAlready() string { // with mu held
	verb := "switch"
	if a := m.rec.Appointment; a != nil {
		verb = a.verb()
	}
	return "a " + verb + " waits for its moment already: see crossfade status; crossfade abort ends the waiting"
}

// keep waits, and makes attempts until one succeeds, or none is left.
func (m *Migration) keep(ctx context.Context, w *waiting) (report Report, err error) {
	defer func() { err = m.endWaiting(ctx, err) }()
	for {
		if err := m.awaitMoment(ctx, w); err != nil {
			return report, err
		}
		if !m.operator.TryLock() {
			w.next, w.after = time.Now().Add(waitEvery), errBusy.Reasons[0]
			continue
		}
		report, err = m.attemptOf(ctx)
		m.operator.Unlock()
		a := m.record().Appointment
		var refused *Refused
		switch {
		case err == nil || a == nil || ctx.Err() != nil:
			return report, err
		case errors.Is(err, errStall) && a.Failed <= a.Retries:
			wait := m.retryAfter(a.Failed)
			w.next = time.Now().Add(wait)
			w.after = fmt.Sprintf("attempt %d of %d was taken back (%v); the next one comes at %s", a.Failed, a.Retries+1, err, w.next.Format(time.TimeOnly))
			m.log.Warn("the switch is tried again", "attempt", a.Failed, "of", a.Retries+1, "in", wait.String(), "because", err)
		case errors.As(err, &refused) && a.WhenReady:
			w.next, w.after = time.Now().Add(waitRefused<<min(w.no, mostDoubled)), refused.Reasons[0]
			w.no++
		default:
			return report, err
		}
	}
}

// retryAfter is for how long the next attempt waits after so many; none is known where the first
// one could not be noted.
func (m *Migration) retryAfter(failed int) time.Duration {
	return m.cfg.Cutover.RetryWait << min(max(failed, 1)-1, mostDoubled)
}

// attemptOf makes one attempt of the appointment, with operator held.
func (m *Migration) attemptOf(ctx context.Context) (Report, error) {
	a := *m.record().Appointment
	// A process that dies in it must not try again by itself when it is back.
	if err := m.changeAppointment(func(a *Appointment) { a.UnderWay = true }); err != nil {
		return Report{}, err
	}
	report, err := m.once(ctx, a.From, SwitchOptions{MaxStall: a.MaxStall, MaxLag: a.MaxLag, OneWay: a.OneWay})
	return report, errors.Join(err, m.changeAppointment(func(a *Appointment) {
		a.UnderWay = false
		if errors.Is(err, errStall) {
			a.Failed++
		}
	}))
}

func (m *Migration) changeAppointment(change func(*Appointment)) error {
	return m.save(true, func(r *Record) {
		if r.Appointment != nil {
			a := *r.Appointment
			change(&a)
			r.Appointment = &a
		}
	})
}

// awaitMoment waits until an attempt may be made, three looks in a row.
func (m *Migration) awaitMoment(ctx context.Context, w *waiting) error {
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	for good := 0; ; {
		now, a := time.Now(), m.record().Appointment
		if a == nil {
			return errors.New("the appointment is gone from the record")
		}
		if err := m.mayLeave(a.From); err != nil {
			return err
		}
		why := m.waitsFor(*a, w, now)
		m.mu.Lock()
		w.why = why
		m.mu.Unlock()
		if len(why) == 0 {
			if good++; good >= 3 {
				return nil
			}
		} else {
			good = 0
		}
		if len(why) > 0 && !a.Until.IsZero() && now.After(a.Until) {
			begin := a.Made
			if !a.At.IsZero() {
				begin = a.At
			}
			return &Refused{append(slices.Clone(why), fmt.Sprintf("the %s was not possible within %v (cutover.timeout)", a.verb(), a.Until.Sub(begin).Round(time.Millisecond)))}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// waitsFor says what an appointment waits for at this moment. The texts do not change
// as long as it is the same.
func (m *Migration) waitsFor(a Appointment, w *waiting, now time.Time) []string {
	if now.Before(a.At) {
		return []string{"the time for it, " + moment(a.At)}
	}
	if why := m.postponed(a.From); why != "" {
		return []string{why}
	}
	if now.Before(w.next) {
		return []string{w.after}
	}
	if !a.WhenReady {
		return nil
	}
	r, mi := m.record(), m.activeMirror()
	why := m.reasonsWithin(r, mi, a.MaxLag, a.MaxStall)
	if len(why) == 0 && !m.closeEnough(mi, a.MaxLag, a.MaxStall) {
		why = append(why, fmt.Sprintf("the copy is not close enough: %d keys dirty", mi.Progress().Dirty))
	}
	return why
}

// closeEnough reports whether a switch can begin: the lag gate's question.
func (m *Migration) closeEnough(mi *mirror.Mirror, maxLag, maxStall time.Duration) bool {
	p := mi.Progress()
	return p.State == mirror.Live && !p.Searching && p.Lag <= maxLag && p.Dirty <= fewDirty &&
		!slices.ContainsFunc(p.Big, func(k mirror.BigKey) bool { return tooSlow(k, maxStall) })
}

// endWaiting takes an appointment out of the record, unless it was the process that
// ended it.
func (m *Migration) endWaiting(ctx context.Context, err error) error {
	defer m.unbook()
	a := m.record().Appointment
	if a == nil {
		return err
	}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errAborted) && m.record().Side == a.From {
		return fmt.Errorf("%w; the %s goes on waiting when the sidecar is started again", err, a.verb())
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	return errors.Join(err, m.endAppointment(*a, why))
}

// endAppointment takes an appointment out of the record; why is why it was not kept. Where the
// switch was made, whatever failed after it, nobody may read that it was not.
func (m *Migration) endAppointment(a Appointment, why string) error {
	if why != "" && m.record().Side == a.From {
		return m.drop(a, why)
	}
	return m.save(true, func(r *Record) { r.Appointment = nil })
}

// drop ends an appointment that was not kept, and says why in the status.
func (m *Migration) drop(a Appointment, why string) error {
	m.log.Warn("the switch that was waited for is not made", "verb", a.verb(), "because", why)
	m.tellOfWaiting("dropped", a, why)
	return m.save(true, func(r *Record) {
		r.Appointment, r.Dropped = nil, &Dropped{Verb: a.verb(), Made: a.Made, At: time.Now(), Why: why}
	})
}

// resume goes on with the appointment that an earlier process made, or says why not.
// It returns when that is kept or dropped, or ctx ends.
func (m *Migration) resume(ctx context.Context) {
	r, why := m.record(), ""
	a := r.Appointment
	switch {
	case a == nil:
		return
	case r.Side != a.From: // made, and the process ended before it could say so
		if err := m.save(true, func(r *Record) { r.Appointment = nil }); err != nil {
			m.log.Error("the record still says that a switch waits", "error", err)
		}
		return
	case r.Phase.Ended():
		why = "the migration has ended (" + string(r.Phase) + ")"
	case a.UnderWay:
		why = "the sidecar ended in the middle of an attempt, which was taken back; it is not tried again by itself"
	case !a.Until.IsZero() && time.Now().After(a.Until):
		why = "the sidecar was not running until its time was over, " + moment(a.Until)
	}
	if why != "" {
		if err := m.drop(*a, why); err != nil {
			m.log.Error("the record still says that a switch waits", "error", err)
		}
		return
	}
	w, ctx, err := m.book(ctx, a, a.From)
	if err != nil {
		return // ended meanwhile
	}
	m.log.Info("a switch goes on waiting for its moment", "verb", a.verb(), "at", moment(a.At), "until", moment(a.Until))
	if _, err := m.keep(ctx, w); err != nil && ctx.Err() == nil {
		m.log.Error("the switch that was waited for has failed", "verb", a.verb(), "error", err)
	}
}

// moment writes a time for people; nothing for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04:05 MST")
}

// mayLeave refuses a switch away from a side on which the applications are not, or
// from which no way leads.
func (m *Migration) mayLeave(from router.Side) error {
	r := m.record()
	switch {
	case r.Side != from:
		return &Refused{[]string{fmt.Sprintf("the applications are on the %s already (phase %s)", r.Side, r.Phase)}}
	case r.Phase.Ended():
		return &Refused{[]string{"the migration has ended (" + string(r.Phase) + ")"}}
	case r.oneWay():
		return &Refused{[]string{r.noWayBack()}}
	}
	return nil
}
