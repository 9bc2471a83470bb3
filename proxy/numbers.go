package proxy

import "time"

// Numbers is what the proxy has measured since its start, and how it stands now.
// A copy of it is a snapshot.
type Numbers struct {
	At time.Time
	Stats
	Refused    int64  // connections refused because there were too many
	Overflowed int64  // clients closed because they did not read their replies
	SlowLogged uint64 // commands that the slow log has taken

	Shared, Pinned   int          // clients that share upstream connections, and that have their own
	Sharing, Pinning int          // commands of theirs in flight
	Connections      [2]Upstreams // by router.Side

	Shadowed Shadowed
	Families []Family         // all of them, in the order of their names' table
	Errors   map[string]int64 // error replies by their first word; "other" for words that are not known
}

// Upstreams are the connections to one side.
type Upstreams struct {
	Shared int
	Pinned int   // in use, or made ready for a switch
	Idle   int   // kept for the next client that needs one
	Failed int64 // attempts to connect in vain, since the start
}

// Family is what was measured of one group of commands. Upstream is from when a
// command was passed on until its reply was there; Total from when it had been read
// until its reply was handed on. What the proxy answers itself has no Upstream.
type Family struct {
	Name            string
	Commands        int64 // answered
	Upstream, Total Histogram
}

// Numbers returns those of this moment. It asks each loop for its own, so it
// costs some microseconds of their time.
func (s *Server) Numbers() Numbers {
	n := Numbers{At: time.Now(), Stats: s.Stats(), Refused: s.refused.Load(), Overflowed: s.overflowed.Load(),
		SlowLogged: s.slow.count(), Shadowed: s.Shadowed(), Families: make([]Family, families), Errors: make(map[string]int64)}
	var errs [errorKinds]int64
	var untimed int64
	for _, l := range s.eventLoops() {
		part := l.numbers()
		for f := range n.Families {
			n.Families[f].Upstream.add(&part.m.families[f].upstream, 1)
			n.Families[f].Total.add(&part.m.families[f].total, 1)
		}
		for i, count := range part.m.errors {
			errs[i] += count
		}
		untimed += part.m.untimed
		if s.cfg.Shared {
			n.Shared += part.guests
			n.Sharing += int(part.m.inflight)
		} else {
			n.Pinned += part.guests
			n.Pinning += int(part.m.inflight)
		}
		for side, count := range part.trunks {
			n.Connections[side].Shared += count
		}
	}
	for i := range s.measures {
		m := &s.measures[i]
		for f := range n.Families {
			m.families[f].upstream.addTo(&n.Families[f].Upstream)
			m.families[f].total.addTo(&n.Families[f].Total)
		}
		for i := range m.errors {
			errs[i] += m.errors[i].Load()
		}
		untimed += m.untimed.Load()
	}
	for f := range n.Families {
		n.Families[f].Name = family(f).String()
		n.Families[f].Commands = n.Families[f].Total.Count()
	}
	n.Families[fOther].Commands += untimed
	for i, count := range errs {
		if count > 0 {
			n.Errors[errorNames[i]] = count
		}
	}
	for _, sess := range s.snapshotSessions() {
		sess.mu.Lock()
		n.Pinning += sess.fifo.n
		sess.mu.Unlock()
		n.Pinned++
	}
	s.countConnections(&n)
	return n
}

// countConnections tells the connections that are not shared apart.
func (s *Server) countConnections(n *Numbers) {
	s.pool.mu.Lock()
	for _, list := range s.pool.links {
		for _, k := range list {
			n.Connections[k.side].Idle++
		}
	}
	s.pool.mu.Unlock()
	var all [2]int
	s.mu.Lock()
	for l := range s.links {
		all[l.side]++
	}
	s.mu.Unlock()
	for side := range n.Connections {
		c := &n.Connections[side]
		c.Pinned = max(0, all[side]-c.Shared-c.Idle)
		c.Failed = s.failed[side].Load()
	}
}

// Served counts the commands that were answered, those left out that may wait in the
// server, and the time that all of them took together. It is cheaper than Numbers.
func (s *Server) Served() (commands int64, took time.Duration) {
	for _, l := range s.eventLoops() {
		part := l.numbers()
		for f := range part.m.families {
			if family(f) != fBlocking {
				commands += part.m.families[f].total.Count()
				took += part.m.families[f].total.Sum
			}
		}
	}
	for i := range s.measures {
		for f := range s.measures[i].families {
			if family(f) != fBlocking {
				var h Histogram
				s.measures[i].families[f].total.addTo(&h)
				commands += h.Count()
				took += h.Sum
			}
		}
	}
	return commands, took
}

// loopNumbers is what a loop adds to them.
type loopNumbers struct {
	m      measure
	guests int
	trunks [2]int // shared ones, by router.Side
}

func (l *loop) numbers() *loopNumbers {
	n := new(loopNumbers)
	done := make(chan struct{})
	if !l.post(func() {
		n.m, n.guests = l.m, len(l.guests)
		n.m.done = nil
		for _, t := range l.trunks {
			if t.ready && !t.dead {
				n.trunks[t.side]++
			}
		}
		for t := range l.retired {
			n.trunks[t.side]++
		}
		close(done)
	}) { // it has ended, and measures no more
		n.m.families, n.m.errors, n.m.untimed = l.m.families, l.m.errors, l.m.untimed
		return n
	}
	<-done
	return n
}

// Since returns what was measured after an earlier snapshot; what only stands for
// a moment is that of n.
func (n Numbers) Since(before Numbers) Numbers {
	out := n
	out.Accepted -= before.Accepted
	out.Commands -= before.Commands
	out.BytesIn -= before.BytesIn
	out.BytesOut -= before.BytesOut
	out.Refused -= before.Refused
	out.Overflowed -= before.Overflowed
	out.SlowLogged -= before.SlowLogged
	out.Families = append([]Family(nil), n.Families...)
	for i := range before.Families {
		f, b := &out.Families[i], &before.Families[i]
		f.Commands -= b.Commands
		f.Upstream.add(&b.Upstream, -1)
		f.Total.add(&b.Total, -1)
	}
	out.Errors = make(map[string]int64)
	for kind, count := range n.Errors {
		if count -= before.Errors[kind]; count > 0 {
			out.Errors[kind] = count
		}
	}
	return out
}

// All returns the sum of all families whose commands do not wait in the server.
func (n Numbers) All() Family {
	all := Family{Name: "all"}
	for i := range n.Families {
		if f := &n.Families[i]; family(i) != fBlocking {
			all.Commands += f.Commands
			all.Upstream.add(&f.Upstream, 1)
			all.Total.add(&f.Total, 1)
		}
	}
	return all
}
