package proxy

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/crossfade/crossfade/router"
)

// nudge wakes what keeps the gate from getting empty. Who came last is woken first: what
// is added meanwhile, by a command in flight or past the proxy, is then for who came first.
func (s *Server) nudge(ctx context.Context) error {
	if s.gate.Inside() == 0 {
		return nil
	}
	sleepers := make(map[router.Side][]sleeper)
	nameless := make(map[router.Side][]*session)
	for _, sess := range s.snapshotSessions() {
		side, z, blocks := sess.blockedOn()
		switch {
		case !blocks:
		case z.id != 0 && s.cfg.Unblock != nil:
			sleepers[side] = append(sleepers[side], z)
		case z.wakable && s.cfg.Unblock != nil && s.cfg.Locate != nil:
			nameless[side] = append(nameless[side], sess)
		default:
			s.giveUpOn(sess)
		}
	}
	for side, list := range nameless {
		ids, err := s.cfg.Locate(ctx, side)
		if err != nil {
			return err
		}
		for _, sess := range list {
			if !sess.located(side, ids) {
				s.giveUpOn(sess)
			}
		} // they are woken the next time
	}
	for side, list := range sleepers {
		slices.SortFunc(list, func(a, b sleeper) int { return cmp.Compare(b.place, a.place) })
		ids := make([]int64, len(list))
		for i, z := range list {
			ids[i] = z.id
		}
		if err := s.cfg.Unblock(ctx, side, ids); err != nil {
			return err
		}
	}
	return nil
}

// forgetNudges is for a Hold that was given up: what of its CLIENT UNBLOCKs is still to come
// comes soon, and one that comes later is a client's own.
func (s *Server) forgetNudges() {
	for _, sess := range s.snapshotSessions() {
		sess.mu.Lock()
		if it, _ := sess.fifo.peek(); it != nil {
			it.unblocked = false
		}
		sess.mu.Unlock()
	}
}

// giveUpFor is how long a server may take to let a client go that cannot be woken.
const giveUpFor = 250 * time.Millisecond

// giveUpOn closes a client behind what its server may have for it already: nothing is to be
// taken for who does not get it.
func (s *Server) giveUpOn(sess *session) {
	sess.mu.Lock()
	l := sess.link
	if l == nil || l.givenUp { // it is being moved, or on its way out
		sess.mu.Unlock()
		return
	}
	l.givenUp = true
	sess.mu.Unlock()
	s.log.Warn("closing a client that blocks and cannot be woken", "client", sess.peer())
	if !closeWrite(l.conn) {
		sess.close()
		return
	}
	time.AfterFunc(giveUpFor, func() {
		sess.mu.Lock()
		stays := sess.link == l // an answer may have let it go, and a switch have it move
		sess.mu.Unlock()
		if stays {
			sess.close()
		}
	})
}

// sleeper is a session that blocks: its id at the server, and its place among others.
type sleeper struct {
	id      int64 // 0 where it is not known
	place   uint64
	wakable bool // it can be said again when it was woken
}

// blockedOn reports whether a session's oldest command blocks, and where.
func (s *session) blockedOn() (side router.Side, z sleeper, blocks bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, _ := s.fifo.peek()
	if it == nil || s.link == nil || it.local {
		return 0, sleeper{}, false
	}
	if it.block == nil { // with a MULTI that was answered it is queued, however long that takes
		return 0, sleeper{}, it.mayBlock && !s.st.multi && time.Since(it.sent) > queuedLong
	}
	it.unblocked = true
	z = sleeper{id: s.upID, wakable: true}
	if it.block.turn != nil {
		z.place = it.block.turn.place
	}
	return s.link.side, z, true
}

// located notes the id of a session that could not ask for it, if it is there.
func (s *session) located(side router.Side, ids map[string]int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil || s.link.side != side {
		return true
	}
	if s.upID == 0 {
		s.upID = ids[s.link.local]
	}
	return s.upID != 0
}
