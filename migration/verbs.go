package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/value"
)

// Abort takes back the switch that is under way, and ends one that waits. After the
// point of no return it is refused: then only a rollback leads back.
func (m *Migration) Abort(context.Context) error {
	left, err := m.stop()
	if left == nil {
		return err
	}
	defer m.unbook()
	return m.endAppointment(*left, errAborted.Error())
}

// stop is Abort but for an appointment that nobody keeps: its end could not be written down, or
// the process has only just begun. That is the caller's to end, and to unbook.
func (m *Migration) stop() (left *Appointment, err error) {
	m.mu.Lock()
	defer m.mu.Unlock() // so that an attempt either sees it or is past it
	cancel, phase := m.abort, m.rec.Phase
	switch {
	case phase == Committing || phase == Committed:
		return nil, &Refused{[]string{"the switch is past its point of no return (" + string(phase) + ")" + m.leadsBack()}}
	case m.attempting && cancel == nil:
		return nil, &Refused{[]string{"the switch is about to be decided (" + string(phase) + ")" + m.leadsBack()}}
	case cancel == nil && m.waiting != nil && m.rec.Side != m.waiting.from: // who has waited has not said so yet
		return nil, &Refused{[]string{"the " + verbOf(m.waiting.from) + " that was waited for is made (" + string(phase) + ")"}}
	case cancel == nil && m.waiting == nil && m.rec.Appointment != nil:
		left = m.rec.Appointment
		m.waiting = &waiting{cancel: func(error) {}, from: left.From} // and nobody keeps it from now on
		return left, nil
	case cancel == nil && m.waiting == nil:
		return nil, &Refused{[]string{"no switch is under way (" + string(phase) + ")"}}
	}
	if m.waiting != nil {
		m.waiting.cancel(errAborted)
	}
	if cancel != nil {
		cancel(errAborted)
	}
	return nil, nil
}

// leadsBack is what is added where an attempt cannot be stopped any more.
func (m *Migration) leadsBack() string { // with mu held
	if s := m.rec.Switch; s != nil && s.To == router.Target && m.noReturn() != "" {
		return "; there is no way back from it: " + m.noReturn()
	}
	return "; when it is through, crossfade rollback leads back"
}

// CompleteOptions are the operator's wishes for the end.
type CompleteOptions struct {
	// StayOnSource ends the migration while the applications are on the source:
	// it is given up.
	StayOnSource bool
}

// cleanUpTime bounds putting one server back; what is left can be done again.
const cleanUpTime = time.Minute

// Complete ends the migration: no way back any more, every setting put back,
// every key and user of ours removed. It says what it did, also when something
// could not be done (err); it may be repeated.
func (m *Migration) Complete(ctx context.Context, o CompleteOptions) (done []string, err error) {
	if !m.operator.TryLock() {
		return nil, errBusy
	}
	defer m.operator.Unlock()
	if err := m.crew.letKnow(ctx); err != nil {
		return nil, fmt.Errorf("waiting until all other sidecars must have looked: %w", err)
	}
	m.verb.Lock() // the background work's turns are short
	defer m.verb.Unlock()
	r := m.record()
	end := Completed
	switch {
	case r.Phase.Switching() || r.Phase == Committing || r.Phase == Committed:
		return nil, &Refused{[]string{"a switch is under way (" + string(r.Phase) + ")"}}
	case r.Appointment != nil:
		return nil, &Refused{[]string{"a " + r.Appointment.verb() + " waits for its moment: crossfade abort ends the waiting"}}
	case r.Side == router.Source && !o.StayOnSource && !r.Phase.Ended():
		return nil, &Refused{[]string{"the applications are on the source; cut over first, or give the migration up with --stay-on-source"}}
	case r.Side == router.Source:
		end = Cancelled
	}
	if r.Phase.Ended() {
		end = r.Phase
	} else if behind := m.crew.behind(ctx); len(behind) > 0 {
		return nil, &Refused{behind}
	}
	if err := m.save(true, func(r *Record) { r.Phase = end }); err != nil {
		return nil, err
	}
	m.seat.leave(m.record().ID)
	m.noteStrays(nil)
	if mi := m.activeMirror(); mi != nil {
		mi.Stop()
		m.setMirror(nil)
		done = append(done, "stopped keeping the "+r.Side.Other().String()+" up to date")
	}
	m.setProblems()
	var errs []error
	for _, side := range []router.Side{router.Source, router.Target} {
		cctx, cancel := context.WithTimeout(ctx, cleanUpTime)
		did, err := m.cleanUp(cctx, side)
		cancel()
		done = append(done, did...)
		errs = append(errs, err)
	}
	cctx, cancel := context.WithTimeout(ctx, cleanUpTime)
	defer cancel()
	m.forgetUnfenced(router.Source)
	m.forgetUnfenced(router.Target)
	did, err := m.sweep(cctx, func(Former) bool { return true })
	done, errs = append(done, did...), append(errs, err)
	did, err = m.crew.clear(cctx)
	return append(done, did...), errors.Join(append(errs, err)...)
}

// cleanUp puts one server back as we found it, but for the data.
func (m *Migration) cleanUp(ctx context.Context, side router.Side) (done []string, err error) {
	id := m.ids[side]
	m.meet(side)
	if kept := m.record().Servers[side]; kept.User || kept.Fence != nil {
		// A restarted process, or a server that did, knows our user no more.
		password, err := m.ownPassword()
		if err == nil {
			err = id.become(ctx, password)
		}
		if err != nil {
			return nil, err
		}
	}
	name := id.Pool().String()
	if changed, err := m.restoreNotifications(ctx, side); err != nil {
		return done, err
	} else if changed {
		done = append(done, "put notify-keyspace-events back on "+name)
		if err := m.save(true, func(r *Record) { r.Servers[side].Notify = nil }); err != nil {
			return done, err
		}
	}
	if m.record().Servers[side].Fence != nil {
		err := m.lowerFenceOf(ctx, side, func(side router.Side) fence {
			f := m.fence(side)
			f.ends = side != m.record().Side // who is left there has not heard of the switch
			return f
		}, func(st *FenceState) (*FenceState, error) { return stillKnown(ctx, id.Pool(), st) })
		if err != nil {
			return done, err
		}
		done = append(done, "lowered the fence on "+name)
		if left := m.record().Servers[side].Fence; left != nil { // our user can still put it right
			return done, &stillDenied{name, left}
		}
	}
	n, err := m.removeKeys(ctx, side, id.Pool())
	if err != nil {
		return done, err
	}
	if n > 0 {
		done = append(done, fmt.Sprintf("removed %d keys of ours from %s", n, name))
	}
	if m.record().Servers[side].User {
		if err := id.leave(ctx); err != nil {
			return done, err
		}
		done = append(done, "removed user "+OwnUser+" from "+name)
		return done, m.save(true, func(r *Record) { r.Servers[side].User = false })
	}
	return done, nil
}

// removeKeys deletes what we wrote: the control keys, the heartbeats, and
// temporary keys that a crash may have left.
func (m *Migration) removeKeys(ctx context.Context, side router.Side, p *conn.Pool) (removed int64, err error) {
	if topologyOf(p) != nil {
		return removeFromNodes(ctx, p)
	}
	dbs := m.databases().On(side)
	if len(dbs) == 0 || dbs[0] != 0 {
		dbs = append([]int{0}, dbs...)
	}
	for _, db := range dbs {
		c := p.DB(db)
		var keys []string
		for _, name := range []string{"source", "target"} {
			beat := mirror.HeartbeatPrefix + name
			keys = append(keys, beat, beat+mirror.ProbeSuffix, beat+mirror.ProbeExpiresSuffix)
		}
		if db == 0 {
			keys = append(keys, store.RecordKey, store.JournalKey, store.FenceKey, store.SeatKey, store.DrainedKey)
			keys = append(keys, fleet.Keys()...)
		}
		iter := c.Scan(ctx, 0, value.TempPrefix+"*", 1000).Iterator()
		for iter.Next(ctx) {
			keys = append(keys, iter.Val())
		}
		if err := iter.Err(); err != nil {
			return removed, fmt.Errorf("looking for keys of ours in database %d of %s: %w", db, p, err)
		}
		n, err := c.Del(ctx, keys...).Result()
		if err != nil {
			return removed, fmt.Errorf("removing keys of ours from database %d of %s: %w", db, p, err)
		}
		removed += n
	}
	return removed, nil
}
