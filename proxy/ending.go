package proxy

import (
	"context"
	"slices"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

// upstreamEnded is called by the reader of l when it ends. Whatever was in flight
// may or may not have run.
func (s *session) upstreamEnded(l *link) {
	s.mu.Lock()
	if s.link != l {
		s.mu.Unlock()
		return
	}
	s.down = true
	events, leaves := s.loseAll()
	s.mu.Unlock()
	s.srv.tell(events)
	s.out.flush()
	for range leaves {
		s.srv.gate.Leave()
	}
	s.poke()
}

// loseAll empties the fifo. It runs under the session's lock.
func (s *session) loseAll() (events []event, leaves int) {
	dbs := []int{s.st.db}
	queue := s.st.effects
	selects := func(it *item) {
		if it.spec.verb != vSelect || len(it.args) != 2 {
			return
		}
		if n, ok := resp.Integer(it.args[1]); ok && !slices.Contains(dbs, int(n)) {
			dbs = append(dbs, int(n))
		}
	}
	lost := !s.fifo.empty()
	for !s.fifo.empty() {
		it, _ := s.fifo.peek()
		_, _ = s.fifo.pop()
		if it == nil {
			leaves++
			continue
		}
		selects(it)
		if it.spec.verb == vExec && !it.settled {
			for _, q := range queue { // what was queued selects databases too
				selects(q)
			}
		}
		var unknown []*item
		if it.spec.verb == vExec && !it.settled {
			unknown = queue
		}
		for _, p := range it.late {
			unknown = append(unknown, p.q)
		}
		for _, q := range unknown {
			s.srv.uncount(q)
			for _, db := range dbs {
				events = append(events, eventsOf(q, db, false)...)
			}
		}
		if !it.local && !it.settled {
			for _, db := range dbs {
				events = append(events, eventsOf(it, db, false)...)
			}
		}
		if it.gate {
			leaves++
		}
		s.srv.uncount(it) // if it ran after all, one too many is found, and that is looked after
		it.lost = true
		it.finish()
	}
	if lost && s.srv.wantsWrites() {
		for _, db := range dbs {
			events = append(events, event{kind: wroteUnknown, db: db})
		}
	}
	if lost { // behind it nothing can be said in order any more: the client is closed
		s.aside = aside{}
	}
	s.fifo.calls.keys = keptKeys{}
	s.fifo.calls.elements.lose()
	return events, leaves
}

// stopFor is how long a client's connection outlives it at most, to be answered for what
// the client waited for.
const stopFor = time.Second

// stopWaiting has the server answer the counted command in which a client was waiting that
// is gone. Whether a server counts one that it has never answered is a matter of its version.
func (s *session) stopWaiting(it *item) {
	ctx, cancel := context.WithTimeout(s.srv.killed, stopFor)
	defer cancel()
	s.mu.Lock()
	var told <-chan struct{}
	if it.counted != "" && s.srv.cfg.Unblock != nil {
		told = s.fifo.tellsID() // it may have left so soon that its id is not known yet
	}
	s.mu.Unlock()
	if told != nil {
		select {
		case <-told:
		case <-ctx.Done():
			return
		}
	}
	s.mu.Lock()
	id, l := s.upID, s.link
	if it.counted == "" || it.done || id == 0 || l == nil || s.srv.cfg.Unblock == nil {
		s.mu.Unlock()
		return
	}
	it.unblocked = true
	answered := make(chan struct{})
	it.heard = answered
	s.mu.Unlock()
	if s.srv.cfg.Unblock(ctx, l.side, []int64{id}) != nil {
		return
	}
	select {
	case <-answered:
	case <-ctx.Done():
	}
}

// passEnd has the server see, behind the command in which a client waits, that the client has
// closed its end, or is to be closed because the proxy stops. One that had something for it has
// answered before it sees that, and the client may still read; one that had nothing lets it go at
// once.
func (s *session) passEnd(it *item) {
	s.mu.Lock()
	l, waits := s.link, !it.done && !s.down
	s.mu.Unlock()
	if l == nil || !waits {
		return
	}
	if !closeWrite(l.conn) {
		return
	}
	timer := time.NewTimer(stopFor)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
	case <-s.srv.killed.Done():
	}
}

// pipe carries a stream both ways: MONITOR, SYNC, PSYNC. It is outside of the
// gate, but sends nothing while that is shut.
func (s *session) pipe() error {
	for {
		if s.isDown() {
			return errUpstreamGone
		}
		if s.srv.stopping.Err() != nil {
			return errStopping
		}
		if b := s.in.Rest(); len(b) > 0 {
			route, err := s.srv.gate.Enter(s.srv.stopping)
			if err != nil {
				return err
			}
			if route.Side != s.route.Side {
				err = errUnmovable
			} else {
				err = s.write(b)
			}
			s.srv.gate.Leave()
			if err != nil {
				return err
			}
		}
		if s.move.Load() != nil {
			return errUnmovable
		}
		if s.eof {
			return errClientGone
		}
		if _, err := s.readOnce(); err != nil {
			return err
		}
	}
}
