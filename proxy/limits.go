package proxy

import (
	"cmp"
	"slices"
)

const (
	queryLimit = 1 << 30  // bytes of one command that a client may have sent in part, as Redis has it
	worthwhile = 64 << 10 // bytes below which a client is never closed to make room
)

// holder is a client and what waits for it and from it.
type holder struct {
	bytes int64
	name  string
	drop  func()
}

// boundMemory closes the clients that hold most while all of them together hold
// more than MaxMemory, as Redis does with maxmemory-clients.
func (s *Server) boundMemory() {
	var all []holder
	total := int64(0)
	for _, l := range s.eventLoops() {
		l.call(func() {
			for g := range l.guests {
				n := g.holds()
				if total += n; n >= worthwhile {
					all = append(all, holder{bytes: n, name: g.peer(), drop: func() { l.post(func() { l.drop(g) }) }})
				}
			}
		})
	}
	for _, sess := range s.snapshotSessions() {
		n := sess.holds()
		if total += n; n >= worthwhile {
			all = append(all, holder{bytes: n, name: sess.peer(), drop: sess.close})
		}
	}
	limit := int64(s.cfg.MaxMemory)
	if total <= limit {
		return
	}
	slices.SortFunc(all, func(a, b holder) int { return cmp.Compare(b.bytes, a.bytes) })
	for _, h := range all {
		if total <= limit {
			break
		}
		s.log.Warn("closing a client to make room: all together hold more than proxy.max_memory", "client", h.name, "bytes", h.bytes, "of", total)
		h.drop()
		total -= h.bytes
	}
}

// holds returns the bytes that wait for the client and from it.
func (g *guest) holds() int64 {
	n := g.out.kept()
	if g.in != nil {
		n += g.in.Size()
	}
	if t := g.trunk; t != nil && t.owner == g {
		n += t.sent.size()
	}
	return int64(n)
}

// holds is the same for a session.
func (s *session) holds() int64 {
	s.mu.Lock()
	queued := max(s.st.queueBytes, s.st.remembered) + s.fifo.kept() + s.collected
	s.mu.Unlock()
	return s.reading.Load() + s.out.size() + int64(queued)
}
