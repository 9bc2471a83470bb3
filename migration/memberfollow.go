package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/router"
)

const (
	beatEvery   = 500 * time.Millisecond
	heardEvery  = 200 * time.Millisecond // between two questions for a word, while nothing is said
	switchEvery = 5 * time.Millisecond   // … while a switch is under way
	askedEvery  = 50 * time.Microsecond  // … of all members together: who speaks wakes them, so these are for words that are lost
	truthEvery  = time.Second            // between two looks at the record, while nothing is said
	storeTime   = time.Second            // for a question to the store
	heldEvery   = 100 * time.Millisecond // … while clients wait
	aloneLeast  = 10 * time.Millisecond  // … while they wait for no word, at first
	aloneMost   = 500 * time.Millisecond // … and after long
	goTime      = 5 * time.Second        // to let what is in flight on the side that is left end
	wordAfter   = 200 * time.Millisecond // behind a record, until the word about it is heard
)

// Run follows the migration until ctx ends. Recover must have succeeded.
func (m *Member) Run(ctx context.Context) error {
	m.mu.Lock()
	missed := m.rec.missed(m.opt.Meeting)
	m.mu.Unlock()
	for _, why := range missed {
		m.log.Warn("this sidecar is not met", "why", why)
	}
	var beside sync.WaitGroup
	beside.Go(func() { m.listen(ctx) })
	beside.Go(func() { m.beats(ctx) })
	m.follow(ctx)
	beside.Wait()
	m.leave(context.WithoutCancel(ctx))
	_ = m.store.Close()
	for _, id := range m.ids {
		_ = id.Pool().Close()
	}
	return nil
}

// leave takes what was said of this process off the store.
func (m *Member) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	if err := m.store.Leave(ctx, m.id); err != nil {
		m.log.Debug("the fleet is not told that this sidecar has gone", "error", err)
	}
}

// listen wakes follow whenever somebody speaks.
func (m *Member) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := m.store.Listen(ctx, func() {
			select {
			case m.wake <- struct{}{}:
			default:
			}
		})
		if ctx.Err() == nil {
			m.log.Debug("nobody can wake this sidecar at once: it asks", "error", err)
		}
		select {
		case <-time.After(beatEvery):
		case <-ctx.Done():
		}
	}
}

// beats says what this process does, whenever that changes and every so often.
func (m *Member) beats(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		m.mu.Lock()
		m.beat++
		said := fleet.Member{
			ID: m.id, Name: m.name, Version: m.opt.Version, Protocol: fleet.Protocol, State: m.state,
			Side: m.route.Side, Epoch: m.route.Epoch, Token: m.rec.Token, Beat: m.beat,
		}
		over := m.over
		m.mu.Unlock()
		said.Inside = m.opt.Gate.Inside()
		said.Commands, _ = m.traffic.Served()
		cctx, cancel := context.WithTimeout(ctx, storeTime)
		if !over { // a completed migration leaves nothing on the servers
			if err := m.store.Beat(cctx, said); ctx.Err() == nil {
				m.noteUnheard(err)
			}
		}
		cancel()
		select {
		case <-tick.C:
		case <-m.changed:
		case <-ctx.Done():
			return
		}
	}
}

// noteUnheard notes whether the fleet hears of this process, and says so when that changes.
func (m *Member) noteUnheard(err error) {
	m.mu.Lock()
	changed := m.unheard.note(err)
	m.mu.Unlock()
	switch {
	case err != nil && changed && m.opt.Meeting != nil:
		m.log.Warn("the fleet does not hear of this sidecar, nor this one of a switch: its clients are served, and find out by the fence", "error", err)
	case err != nil:
		m.log.Debug("the fleet does not hear of this sidecar", "error", err)
	case changed && m.opt.Meeting != nil:
		m.log.Info("the fleet hears of this sidecar again")
	}
}

// follow obeys what is said, and reads the truth when nothing is.
func (m *Member) follow(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	m.hurry() // the room that it takes on the disk is there from now on
	for {
		refused := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.wake:
		case <-m.refusals:
			refused = true
		}
		m.step(ctx, refused)
		m.calm()
		wait := heardEvery
		if !m.held.IsZero() || !m.prepared.IsZero() {
			wait = min(heardEvery, max(switchEvery, time.Duration(m.heard.Members)*askedEvery))
		}
		timer.Reset(wait)
	}
}

// step is one look at the store and, where it is time for that, at the record.
func (m *Member) step(ctx context.Context, refused bool) {
	cctx, cancel := context.WithTimeout(ctx, storeTime)
	w, err := m.store.Heard(cctx)
	cancel()
	if err == nil && w.Says() && w.ID() != m.heard.ID() {
		m.heard = w
		m.obey(ctx, w)
	}
	since := m.held
	if since.IsZero() {
		since = m.prepared
	}
	switch {
	case refused && m.held.IsZero(), m.parked && m.held.IsZero() && time.Since(m.looked) > aloneMost:
		m.refused(ctx)
	case m.alone && time.Since(m.looked) > min(aloneMost, max(aloneLeast, time.Since(m.held)/10)):
		m.refused(ctx)
	case !since.IsZero() && time.Since(since) > m.patience():
		m.settleAlone(ctx)
	case !m.held.IsZero() && time.Since(m.looked) > heldEvery && time.Since(m.held) > heldEvery:
		_ = m.resolve(ctx) // whoever coordinates may have died behind the commit
	case since.IsZero() && time.Since(m.looked) > truthEvery:
		_ = m.resolve(ctx)
	}
}

// refused finds out why a server has refused a client: by a fence, and then a switch is over
// or under way, or for a reason of its own.
func (m *Member) refused(ctx context.Context) {
	before := m.epoch()
	unread := m.resolve(ctx)
	if m.epoch() > before {
		return
	}
	route, _ := m.now()
	why := m.against(route)
	if why != nil {
		m.note(why.Error())
	}
	fenced, err := m.fenced(ctx, route.Side)
	free := why == nil && err == nil && !fenced
	switch {
	case free && unread == nil && m.alone: // the switch was given up
		_ = m.open(route)
		m.traffic.Retry()
	case free && unread == nil:
		m.parked = false
		m.traffic.Retry()
	case free && !m.alone: // a wrong guess would not be refused if the migration was ended
		m.parked = true
	case !m.alone:
		m.log.Warn("a switch is under way that this sidecar has not heard of: its clients wait", "side", route.Side)
		m.wait(ctx, fleet.Held)
	case time.Since(m.held) > m.patience():
		if _, state := m.now(); state != fleet.Waiting {
			m.log.Error("clients wait: the server that they were on is fenced, or may be left, and the record does not say that they belong elsewhere", "side", route.Side)
			m.setState(fleet.Waiting)
		}
	}
}

// obey does what a coordinator says, and answers.
func (m *Member) obey(ctx context.Context, w fleet.Word) {
	m.mu.Lock()
	old := w.Token < m.rec.Token
	m.mu.Unlock()
	if old {
		return
	}
	if w.Stage == fleet.Release {
		m.released(ctx, w)
		return
	}
	if route, _ := m.now(); route.Side == w.To || route.Epoch+1 != w.Epoch {
		_ = m.resolve(ctx) // a switch was missed, or all of this one
	}
	a := fleet.Answer{Word: w.ID()}
	if err := m.do(ctx, w); err != nil {
		a.Failed = err.Error()
		m.log.Warn("this sidecar cannot do what a switch asks for; the fence will refuse its clients until it knows more", "stage", w.Stage, "error", err)
	}
	cctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	if err := m.store.Answer(cctx, m.id, a); err != nil {
		m.log.Debug("an answer is not heard", "error", err)
	}
}

// do is a stage of a switch that is not its end.
func (m *Member) do(ctx context.Context, w fleet.Word) error {
	route, state := m.now()
	if route.Side == w.To || route.Epoch+1 != w.Epoch {
		return fmt.Errorf("its clients are on the %s by switch %d already", route.Side, route.Epoch)
	}
	switch w.Stage {
	case fleet.Prepare:
		m.prepared = time.Now()
		m.hurry()
		cctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
		defer cancel()
		if err := m.traffic.Prepare(cctx, w.To); err != nil {
			// Those connect at the switch.
			m.log.Info("some clients cannot be connected ahead of a switch", "error", err)
		}
		m.carryScripts(cctx, w.To)
		return m.traffic.Settle(cctx)
	case fleet.Hold:
		if state != fleet.Open {
			return nil
		}
		m.held = time.Now()
		m.hurry()
		cctx, cancel := context.WithTimeout(ctx, m.cfg.Cutover.MaxStall)
		defer cancel()
		if err := m.traffic.Hold(cctx); err != nil {
			m.traffic.Release(route)
			m.held, m.prepared = time.Time{}, time.Time{}
			return err
		}
		m.setState(fleet.Held)
		return nil
	case fleet.Align:
		if state != fleet.Held && state != fleet.Waiting {
			return errors.New("its clients do not wait")
		}
		route.Side, route.Epoch = w.To, w.Epoch
		cctx, cancel := context.WithTimeout(ctx, m.cfg.Cutover.MaxStall)
		defer cancel()
		if err := m.traffic.Align(cctx, route); err != nil {
			return err
		}
		m.aligned = w.Epoch
		return nil
	}
	return fmt.Errorf("stage %q is not known to this version", w.Stage)
}

// released lets clients go on where they were, or, once the record says so, on the other side.
func (m *Member) released(ctx context.Context, w fleet.Word) {
	route, state := m.now()
	if route.Side == w.To && w.Epoch <= route.Epoch {
		if state == fleet.Open && m.prepared.IsZero() {
			return
		}
		if m.against(route) == nil {
			_ = m.open(route)
		}
		return
	}
	_ = m.resolve(ctx)
	if now, _ := m.now(); now.Epoch < w.Epoch {
		m.looked = time.Time{} // a record that could not be read is asked for again soon
		m.log.Warn("a switch is said to be over, and the record does not say so yet", "epoch", w.Epoch)
	}
}

// goTo follows a switch that is over. Who was held for it is there at once. Otherwise the
// side that was left refuses what is in flight there, and subscribers have missed what was
// published since: they are closed, so that they know.
func (m *Member) goTo(ctx context.Context, route router.Route) {
	was, state := m.now()
	if state == fleet.Open || m.opt.Gate.Inside() > 0 { // who was to wait may have been waiting for an answer
		m.log.Warn("a switch was made without this sidecar", "side", route.Side, "epoch", route.Epoch)
		m.setState(fleet.Held)
		m.hurry()
		cctx, cancel := context.WithTimeout(ctx, goTime)
		defer cancel()
		if was.Side != route.Side {
			if err := m.traffic.Prepare(cctx, route.Side); err != nil {
				m.log.Info("some clients cannot be connected ahead", "error", err)
			}
		}
		if err := m.traffic.Hold(cctx); err != nil {
			m.log.Warn("commands on the side that was left are not answered: their clients are closed", "error", err)
			m.traffic.Sever(was.Side)
			again, cancel := context.WithTimeout(ctx, goTime)
			defer cancel()
			if err := m.traffic.Hold(again); err != nil {
				m.log.Error("clients cannot be moved yet", "error", err)
				m.held = time.Now() // tried again when that has gone on for long
				return
			}
		}
	}
	if was.Side != route.Side && !m.heardAll(ctx, route) {
		m.traffic.DropListeners(route.Side)
	}
	_ = m.open(route)
}

// heardAll reports whether this process's subscribers have missed nothing on the side that a
// switch has led to: whoever coordinated it says so, of those that have answered in time. The
// word comes right behind the record.
func (m *Member) heardAll(ctx context.Context, route router.Route) bool {
	if m.aligned != route.Epoch {
		return false
	}
	for end := time.Now().Add(wordAfter); ; {
		if w := m.heard; w.Stage == fleet.Release && w.To == route.Side && w.Epoch == route.Epoch {
			return slices.Contains(w.Aligned, m.id)
		}
		select {
		case <-time.After(switchEvery):
		case <-ctx.Done():
			return false
		}
		cctx, cancel := context.WithTimeout(ctx, wordAfter)
		w, err := m.store.Heard(cctx)
		cancel()
		switch {
		case err == nil && w.Stage == fleet.Release && w.To == route.Side && w.Epoch == route.Epoch:
			return slices.Contains(w.Aligned, m.id)
		case time.Now().After(end):
			return false
		}
	}
}

// settleAlone is for a coordinator that says nothing any more.
func (m *Member) settleAlone(ctx context.Context) {
	route, state := m.now()
	before := route.Epoch
	if _ = m.resolve(ctx); m.epoch() > before {
		return
	}
	if state == fleet.Open && m.held.IsZero() && m.against(route) == nil {
		_ = m.open(route) // it was prepared for a switch that has not come
		return
	}
	if err := m.failOpen(ctx, errUndecided); err != nil {
		if m.note(err.Error()) {
			m.log.Error("clients wait", "error", err)
		}
		if state != fleet.Waiting {
			m.setState(fleet.Waiting)
		}
		m.held = time.Now().Add(switchEvery*20 - m.patience()) // asked again soon
	}
}

func (m *Member) epoch() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.route.Epoch
}

// carryScripts loads what clients have used as scripts on the side that is entered, so that
// EVALSHA works there from the first command on. Those that cannot be loaded answer NOSCRIPT,
// as clients expect.
func (m *Member) carryScripts(ctx context.Context, to router.Side) {
	pipe := m.ids[to].Pool().DB(0).Pipeline()
	m.mu.Lock()
	dm := mapOf(m.rec)
	m.mu.Unlock()
	for _, body := range m.traffic.Scripts() {
		if mayGo(body, to, dm) {
			pipe.ScriptLoad(ctx, body)
		}
	}
	if pipe.Len() == 0 {
		return
	}
	if _, err := pipe.Exec(ctx); err != nil {
		m.log.Info("not all scripts are loaded ahead of a switch", "error", err)
	}
}
