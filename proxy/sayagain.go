package proxy

import (
	"bytes"
	"sync"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

// The sessions' part of what refused.go is about.

// rounds counts how often clients were let say again what a fence has refused. The zero
// value is ready.
type rounds struct {
	mu    sync.Mutex
	no    uint64
	final bool // in the last one: what the server answers is the answer
	next  chan struct{}
}

// now returns the number of the last round, whether that was final, and what is closed when
// the next one begins.
func (r *rounds) now() (no uint64, final bool, next chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = make(chan struct{})
	}
	return r.no, r.final, r.next
}

// retrySessions begins a round.
func (s *Server) retrySessions(final bool) {
	r := &s.rounds
	r.mu.Lock()
	defer r.mu.Unlock()
	r.no++
	r.final = final
	if r.next != nil {
		close(r.next)
		r.next = nil
	}
}

// keepRaw keeps how the client wrote a command, where a fence may refuse it. It runs under
// the lock.
func (s *session) keepRaw(it *item) {
	if s.srv.cfg.Refused != nil {
		it.again = bytes.Clone(s.curRaw)
	}
}

// mayBeRefused reports whether a reply that starts with c must be read as a whole before
// anything of it is passed on. It runs under the lock.
func (s *session) mayBeRefused(c byte) bool {
	return s.srv.cfg.Refused != nil && (c == '-' || s.aside.n > 0)
}

// refusedPlain decides about the reply to the plain command that was popped last. True is
// that it is set aside. It runs under the lock.
func (r *reader) refusedPlain() bool {
	s := r.s
	if r.mode != modeWhole {
		_, _ = s.aside.takes(s.fifo.raw, nil)
		return false
	}
	if r.setsAside(s.fifo.raw) {
		return true
	}
	if !r.drop {
		s.out.append(r.coll)
	}
	return false
}

// setsAside is takes for the present reply. It runs under the lock.
func (r *reader) setsAside(raw []byte) bool {
	s := r.s
	first := s.aside.n == 0
	taken, before := s.aside.takes(raw, r.coll)
	switch {
	case taken && (s.mute || s.skip && first): // the client would not get it
		s.aside.replies = s.aside.replies[:len(s.aside.replies)-len(r.coll)]
	case before.n > 0 && s.skip: // … which was for the first of these
		s.skip, s.skipNext = s.skipNext, false
		r.drop = r.drop && s.mute
	}
	s.out.append(before.replies)
	if before.told { // nobody knows any more which database it is in, or who it is
		_ = r.l.conn.Close()
	}
	if taken && first {
		s.asideIn, _, _ = s.srv.rounds.now()
	}
	r.wake = r.wake || taken
	return taken
}

// refusedItem is refusedPlain for an item: when it is set aside it is done with, as if it
// had never been sent.
func (r *reader) refusedItem() bool {
	s, it := r.s, r.it
	if it.settled || !r.setsAside(it.again) {
		return false
	}
	s.srv.uncount(it)
	_, _ = s.fifo.pop()
	if it.gate {
		r.leaves++
	}
	it.finish()
	return true
}

// setsAsideLocal sets aside what the proxy itself would answer. It runs under the lock.
func (s *session) setsAsideLocal(raw, reply []byte) {
	if s.mute {
		reply = nil
	}
	s.aside.add(raw, reply)
}

func (s *session) hasAside() bool {
	if s.srv.cfg.Refused == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aside.n > 0
}

// sayAgain waits until it is known where to, and puts what was set aside before what the
// client has sent since. What the server knows of an unfinished transaction is void, and of
// the rest it may know what was to come later: so where it is the same one it is told anew,
// on another connection.
func (s *session) sayAgain() error {
	if err := s.awaitEmpty(); err != nil {
		return err
	}
	s.mu.Lock()
	n, in := s.aside.n, s.asideIn
	s.mu.Unlock()
	if n == 0 {
		return nil
	}
	from, final := time.Now(), false
	for {
		no, last, next := s.srv.rounds.now()
		if no != in {
			final = last
			break
		}
		s.srv.cfg.Refused()
		select {
		case <-next:
		case <-s.srv.stopping.Done():
			return errStopping
		}
	}
	if s.srv.waitedInVain(time.Since(from), s.hungUp) {
		return errClientGone
	}
	s.mu.Lock()
	said := s.aside
	s.aside = aside{}
	if final {
		s.aside.again = said.n
	}
	s.multi = s.st.multi // what was sent has not happened
	anew := s.down || s.st.multi || s.st.watch || said.told
	s.down = false // nothing is in flight, so nothing is lost
	s.mu.Unlock()
	var before resp.Requests
	before.Bulk = s.in.Bulk
	said.before(&s.in, &before)
	s.in, s.quit = before, false
	side := s.route.Side
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if s.hungUp() { // see late.go: it may have written something newer since
		return errClientGone
	}
	if anew && s.route.Side == side {
		return s.cross(s.route)
	}
	return nil
}
