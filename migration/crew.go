package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/router"
)

const (
	crewEvery   = time.Second      // between two looks at the heartbeats
	aliveFor    = 3 * time.Second  // after a heartbeat
	shownFor    = 10 * time.Minute // after which one that says nothing and is not connected is forgotten
	forgetEvery = time.Minute      // between two looks for such ones
	prepareFor  = time.Second      // in which members connect ahead of a switch; nobody waits yet
	answerMost  = 250 * time.Millisecond
	answerShare = 8 // of the time that clients may still wait, a part goes to a member that does not answer
	crewTime    = time.Second
	sayShare    = 4 // a part of it goes to a store that does not answer, too
)

// crew is the traffic of all sidecars of a migration: the clients of this one, and, by what
// is said in the fleet's store, those of the members, which only proxy. It makes a switch
// shorter, and free of refusals. That it is safe rests on the fence alone, so a member that
// does not answer is named and not waited for. Without members it is this process's traffic
// and nothing else.
type crew struct {
	Traffic
	m     *Migration
	store fleet.Store

	mu      sync.Mutex
	ever    bool // there have been members, so there may be some of whom nobody has heard
	seen    map[string]sighting
	swept   time.Time // when those that are gone were looked for last
	seq     uint64
	holds   []string     // members that have done what was said last
	aligned []string     // members that did so in time, for the switch that next is
	plan    *FleetReport // of the attempt
	next    router.Route // where that leads
	let     time.Time    // when clients were let go on last; at first: when this process has begun
	away    absence      // why the store could not be asked last
}

// sighting is a heartbeat and when it has changed last, by our own clock.
type sighting struct {
	fleet.Member
	at time.Time
}

func newCrew(m *Migration, local Traffic) *crew {
	return &crew{
		Traffic: local, m: m, seen: make(map[string]sighting), let: time.Now(),
		store: meet(m.opt.Meeting, m.ids[router.Target].first, func() string { return m.record().ID }, m.cfg.Proxy.DialTimeout),
	}
}

// FleetReport is what the members have done in one attempt.
type FleetReport struct {
	Members int      `json:"members"` // that were alive
	Held    int      `json:"held"`    // that held their clients before the fence went up
	Missing []string `json:"missing"` // that did not, and why; the fence has refused their clients
}

// MemberStatus is one sidecar that only proxies.
type MemberStatus struct {
	ID       string      `json:"id"`
	Name     string      `json:"name"`
	Version  string      `json:"version"`
	Protocol int         `json:"protocol"` // what it understands of others: all need the same
	State    fleet.State `json:"state"`
	Side     router.Side `json:"side"` // where its clients' commands go
	Epoch    uint64      `json:"epoch"`
	InFlight int64       `json:"in_flight"` // commands
	Commands int64       `json:"commands"`  // since it started
	AgeMS    float64     `json:"age_ms"`    // of its newest heartbeat
	Alive    bool        `json:"alive"`
}

// look reads the heartbeats.
func (c *crew) look(ctx context.Context) error {
	list, err := c.store.Members(ctx)
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.noteAway(err)
	}
	if err != nil {
		return err
	}
	now, epoch := time.Now(), c.m.record().Epoch
	var old []string
	c.mu.Lock()
	there := make(map[string]sighting, len(list))
	for _, m := range list {
		s, known := c.seen[m.ID]
		if !known || s.Beat != m.Beat || m.Lives {
			s.at = now
		}
		s.Member = m
		if now.Sub(s.at) > shownFor && s.Epoch >= epoch { // one that is behind may only be asleep
			old = append(old, m.ID)
		}
		there[m.ID] = s
	}
	c.seen = there
	due := len(old) > 0 && now.Sub(c.swept) > forgetEvery
	if due {
		c.swept = now
	}
	c.ever = c.ever || len(list) > 0
	known := c.ever
	c.mu.Unlock()
	if !known { // there may have been some before this process
		w, err := c.store.Heard(ctx)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.ever = c.ever || w.Says()
		c.mu.Unlock()
	}
	if due {
		return c.forget(ctx, old)
	}
	return nil
}

// exists reports whether there are, or have been, members.
func (c *crew) exists() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ever
}

// members returns the sidecars that only proxy, by name.
func (c *crew) members() []MemberStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []MemberStatus
	for _, s := range c.seen {
		age := time.Since(s.at)
		out = append(out, MemberStatus{
			ID: s.ID, Name: s.Name, Version: s.Version, Protocol: s.Protocol, State: s.State, Side: s.Side, Epoch: s.Epoch,
			InFlight: s.Inside, Commands: s.Commands, AgeMS: ms(age), Alive: age < aliveFor,
		})
	}
	slices.SortFunc(out, func(a, b MemberStatus) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	return out
}

// alive returns those whose heart beats, by id, and why a switch cannot be made with them.
func (c *crew) alive() (names map[string]string, against []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names = make(map[string]string)
	for _, s := range c.seen {
		if time.Since(s.at) >= aliveFor {
			continue
		}
		names[s.ID] = s.Name
		if s.Protocol != fleet.Protocol {
			against = append(against, fmt.Sprintf("sidecar %s of version %q speaks another language in the fleet (%d, this one %d): bring all to one version first", s.Name, s.Version, s.Protocol, fleet.Protocol))
		}
	}
	slices.Sort(against)
	return names, against
}

// say makes a word the present one.
func (c *crew) say(ctx context.Context, stage fleet.Stage, r router.Route) (fleet.Word, error) {
	c.mu.Lock()
	c.seq++
	w := fleet.Word{By: c.m.seat.holder, Seq: c.seq, Token: c.m.record().Token, Stage: stage, To: r.Side, Epoch: r.Epoch, Members: len(c.seen)}
	if stage == fleet.Release && r.Side == c.next.Side && r.Epoch == c.next.Epoch {
		w.Aligned = c.aligned
	}
	c.mu.Unlock()
	most := crewTime
	if end, bounded := ctx.Deadline(); bounded && stage != fleet.Prepare { // clients wait
		most = min(most, time.Until(end)/sayShare)
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return w, c.store.Say(ctx, w)
}

// answered waits until all have answered a word, for at most patience, and returns who has
// done what it says, and what is to be said of the others.
func (c *crew) answered(ctx context.Context, w fleet.Word, ids []string, patience time.Duration) (done []string, missing map[string]string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	wait := 200 * time.Microsecond
	for {
		list, err := c.store.Answers(ctx, ids)
		if err != nil && missing != nil {
			return done, missing // the time is up: what was known before counts
		}
		done, missing = nil, make(map[string]string)
		open := 0
		for _, id := range ids {
			switch a, ok := list[id]; {
			case !ok || a.Word != w.ID():
				missing[id] = "did not answer to " + string(w.Stage)
				open++
			case a.Failed != "":
				missing[id] = a.Failed
			default:
				done = append(done, id)
			}
		}
		if open == 0 && err == nil {
			return done, missing
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 2*time.Millisecond)
		case <-ctx.Done():
			return done, missing
		}
	}
}

// obey says a word, has this process do the same, and waits for those members that have done
// all that was said before. The error is this process's: nobody else's matters.
func (c *crew) obey(ctx context.Context, stage fleet.Stage, r router.Route, patience time.Duration, here func() error) error {
	c.mu.Lock()
	ids, plan := c.holds, c.plan
	c.mu.Unlock()
	if len(ids) == 0 {
		return here()
	}
	said := make(chan struct{})
	var w fleet.Word
	var sayErr error
	go func() {
		defer close(said)
		w, sayErr = c.say(ctx, stage, r)
	}()
	err := here()
	<-said
	if err != nil {
		return err
	}
	var done []string
	missing := make(map[string]string)
	if sayErr != nil {
		if errors.Is(sayErr, fleet.ErrOld) {
			return sayErr
		}
		for _, id := range ids {
			missing[id] = sayErr.Error()
		}
	} else {
		done, missing = c.answered(ctx, w, ids, patience)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds = done
	for id, why := range missing {
		plan.Missing = append(plan.Missing, c.nameOf(id)+": "+why)
	}
	slices.Sort(plan.Missing)
	switch stage {
	case fleet.Hold:
		plan.Held = len(done)
	case fleet.Align:
		c.aligned = done
	}
	if len(missing) > 0 {
		c.m.log.Warn("not all sidecars do what a switch asks for: the fence refuses their clients, who wait until these find out", "stage", stage, "missing", plan.Missing)
	}
	return nil
}

// nameOf is called with mu held.
func (c *crew) nameOf(id string) string {
	if s, ok := c.seen[id]; ok {
		return s.Name
	}
	return id
}

// Prepare implements Traffic. A switch is refused where members could not be kept off the
// server that is left, or do not understand what they are told.
func (c *crew) Prepare(ctx context.Context, to router.Side) error {
	cctx, cancel := context.WithTimeout(ctx, crewTime)
	err := c.look(cctx)
	cancel()
	if err != nil {
		return fmt.Errorf("looking for other sidecars: %w", err)
	}
	here := func() error {
		if err := c.Traffic.Prepare(ctx, to); err != nil {
			return &sessionsError{err}
		}
		return nil
	}
	rec := c.m.record()
	weak := unkept(c.m.ids[to.Other()], rec.Servers[to.Other()])
	if len(weak) > 0 && !c.exists() {
		if err := c.meetSilent(ctx, to.Other()); err != nil {
			return err
		}
	}
	if !c.exists() {
		return here()
	}
	names, against := c.alive()
	if against = append(against, weak...); len(against) > 0 {
		return &Refused{against}
	}
	ids := make([]string, 0, len(names))
	for id := range names {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	next := router.Route{Side: to, Epoch: rec.Epoch + 1, Map: c.m.databases()}
	c.mu.Lock()
	c.aligned = nil
	c.holds, c.plan, c.next = ids, &FleetReport{Members: len(ids), Missing: []string{}}, next
	c.mu.Unlock()
	return c.obey(ctx, fleet.Prepare, next, prepareFor, here)
}

// sessionsError is that this process's own sessions cannot be connected ahead. Every other
// error of Prepare has something against the switch.
type sessionsError struct{ err error }

func (e *sessionsError) Error() string { return e.err.Error() }
func (e *sessionsError) Unwrap() error { return e.err }

// Hold implements Traffic.
func (c *crew) Hold(ctx context.Context) error {
	return c.obey(ctx, fleet.Hold, c.following(), patienceOf(ctx), func() error { return c.Traffic.Hold(ctx) })
}

// Align implements Traffic.
func (c *crew) Align(ctx context.Context, r router.Route) error {
	return c.obey(ctx, fleet.Align, r, patienceOf(ctx), func() error { return c.Traffic.Align(ctx, r) })
}

// Release implements Traffic.
func (c *crew) Release(r router.Route) {
	c.mu.Lock()
	c.let = time.Now()
	c.mu.Unlock()
	var said sync.WaitGroup
	if c.exists() {
		said.Go(func() {
			if _, err := c.say(context.Background(), fleet.Release, r); err != nil {
				c.m.log.Warn("the other sidecars are not told where commands go now: they find out by themselves", "error", err)
			}
		})
	}
	c.Traffic.Release(r)
	said.Wait()
	c.mu.Lock()
	c.holds = nil
	c.mu.Unlock()
}

func (c *crew) following() router.Route {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// patienceOf is for how long an answer is waited for, while clients wait.
func patienceOf(ctx context.Context) time.Duration {
	end, bounded := ctx.Deadline()
	if !bounded {
		return answerMost
	}
	return max(time.Millisecond, min(answerMost, time.Until(end)/answerShare))
}

// reported returns what the members have done since the last Prepare; nil: there were none.
func (c *crew) reported() *FleetReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.plan
	c.plan = nil
	return p
}

// watch keeps up with the heartbeats until ctx ends. At first it says where commands go: an
// earlier process may have ended in the middle of a switch.
func (c *crew) watch(ctx context.Context) {
	tick := time.NewTicker(crewEvery)
	defer tick.Stop()
	for first := true; ; {
		cctx, cancel := context.WithTimeout(ctx, crewTime)
		err := c.look(cctx)
		cancel()
		if err == nil && first && c.exists() {
			c.m.whileIdle(func() {
				if c.m.record().Phase.Ended() {
					return // nothing of it stays on the servers
				}
				if _, err = c.say(ctx, fleet.Release, c.m.route()); err == nil {
					first = false
				}
			})
		}
		if err != nil {
			c.m.log.Debug("the other sidecars are not known", "error", err)
		}
		select {
		case <-tick.C:
		case <-c.m.seat.ended:
			return
		case <-ctx.Done():
			return
		}
	}
}
