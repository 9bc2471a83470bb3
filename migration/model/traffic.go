package model

// traffic adds what the applications and the sidecars may do.
func (m *Model) traffic(s *State, out *successors) {
	for car := range s.car {
		if e := s.told(); e > s.car[car] && !s.idle(car) {
			n := *s
			n.car[car] = e
			out.add(sidecars[car], "reads that the applications are on "+names[e&1], n)
		}
	}
	for w := range s.write {
		switch {
		case w == writeX && s.write[w] == waiting:
			m.direct(s, out)
		case s.write[w] == waiting:
			m.send(s, w, out)
		case s.write[w] == atSource:
			m.run(s, w, source, out)
		case s.write[w] == atTarget:
			m.run(s, w, target, out)
		}
	}
	m.forsake(s, out)
	for x := range s.srv {
		if s.srv[x].paused {
			n := *s
			n.srv[x].paused = false
			out.add(names[x], "ends the pause, which has expired", n)
		}
	}
}

// told is the epoch that the control keys tell a sidecar.
func (s *State) told() uint8 { return max(s.srv[source].key.epoch, s.srv[target].key.epoch) }

var sidecars = [2]string{"sidecar 1", "sidecar 2"}

// of returns the sidecar of a write's client.
func (s *State) of(w int) int {
	if w == writeC || w == writeB && s.elsewhere {
		return 1
	}
	return 0
}

// send adds the sending of a write, or of one that was refused, to where its
// sidecar knows the applications to be.
func (m *Model) send(s *State, w int, out *successors) {
	car := s.of(w)
	x := int(s.car[car] & 1)
	to := uint8(atSource + x)
	switch {
	case w == writeB && s.elsewhere && !s.taken:
		return // sidecar 2 serves nobody yet
	case w == writeB && s.elsewhere:
	case (w == writeA || w == writeB) && s.write[writeA+writeB-w] == unknown:
		n := *s
		n.write[w] = unknown
		out.add(sidecars[car], "closes the connection of client 1, which waits for "+letters[w:w+1]+" as well", n)
		return
	}
	switch w {
	case writeA:
		// What is pipelined behind it must be refused as well before both may be
		// sent again, in order.
		if m.has(WholeSuffix) {
			switch s.write[writeB] {
			case atSource, atTarget:
				return
			case acked:
				n := *s
				n.write[w] = refused
				out.add(sidecars[car], "answers a with the error, as b was run", n)
				return
			}
		}
	case writeB:
		if a := s.write[writeA]; a == waiting || a < acked && a != to {
			return
		}
	}
	n := *s
	if !s.met[car][x] {
		p := newest(s.srv[source].key, s.srv[target].key).phase
		if m.has(AskFirst) && (p == prepared || p == committing || s.told() > s.car[car]) {
			return // a switch is under way: wait for its end
		}
		n.met[car][x] = true
	}
	n.write[w] = to
	out.add(sidecars[car], "sends "+letters[w:w+1]+" to "+names[x], n)
}

// run adds what the server makes of a write that was sent to it.
func (m *Model) run(s *State, w, x int, out *successors) {
	v := &s.srv[x]
	if w == writeB && s.write[writeA] == s.write[w] || v.paused {
		return // the other is before it on the connection; stalled
	}
	letter := letters[w : w+1]
	n := *s
	if v.fence {
		n.write[w] = waiting
		out.add(names[x], "refuses "+letter, n)
		return
	}
	n.srv[x].data = v.data.add(w)
	n.tell(x)
	n.write[w] = acked
	if x != int(s.epoch&1) {
		n.broken = wrongSide
	}
	out.add(names[x], "runs "+letter+" and acknowledges it", n)
	if s.left.Replies > 0 {
		n.left.Replies--
		if n.write[w] = unknown; !m.has(ReplayRefusedOnly) {
			n.write[w] = waiting
		}
		out.add(names[x], "runs "+letter+", and the answer is lost", n)
	}
}

// direct adds the write of a client that bypasses the proxy.
func (m *Model) direct(s *State, out *successors) {
	v := &s.srv[source]
	if v.paused {
		return
	}
	n := *s
	if v.fence {
		n.write[writeX] = refused
		out.add(names[source], "refuses x, which bypasses the proxy", n)
		return
	}
	n.srv[source].data = v.data.add(writeX)
	n.tell(source)
	n.write[writeX] = acked
	if v.forgot && (s.decided > s.epoch || s.epoch&1 == target) {
		n.gone |= 1 << writeX // on a server that was left: named, not kept
	}
	out.add(names[source], "runs x, which bypasses the proxy", n)
}

// faults adds the failures of servers and connections.
func (m *Model) faults(s *State, out *successors) {
	for x := range s.srv {
		if s.left.Fails == 0 {
			break
		}
		if v := s.srv[x]; !s.left.Fsync && (v.kept != v.data || v.kept2 != v.key) {
			n := *s
			n.srv[x].kept, n.srv[x].kept2 = v.data, v.key
			what := "has it all on disk"
			if m.bounds.Replicas {
				what = "has replicated it all"
			}
			out.add(names[x], what, n)
		}
		m.fail(s, x, out)
	}
	if s.left.Cuts == 0 {
		return
	}
	for i, c := range s.co {
		n := *s
		n.left.Cuts--
		if c.ahead.up {
			n.co[i].ahead = m.cut(c.ahead)
			out.add("network", "cuts the notifications of "+names[c.epoch&1], n)
		}
		if c.back.up {
			n.co[i] = c
			n.co[i].back = feed{}
			out.add("network", "cuts the notifications of "+names[1-c.epoch&1], n)
		}
	}
}

// cut is a feed that is lost: what it was told on the way is, too.
func (m *Model) cut(f feed) feed {
	return feed{dirty: f.dirty, owed: f.owed || m.has(GapIsRescanned)}
}

// fail lets a server fail and come back, without its newest writes.
func (m *Model) fail(s *State, x int, out *successors) {
	n := *s
	n.left.Fails--
	v := &n.srv[x]
	if s.left.Fsync {
		v.kept, v.kept2 = v.data, v.key
	}
	if x == int(s.epoch&1) {
		for w := range s.write {
			had, _ := v.data.find(w)
			if has, _ := v.kept.find(w); had > 0 && has == 0 {
				n.gone |= 1 << w
			}
		}
	}
	v.data, v.key, v.paused = v.kept, v.kept2, false
	what := "fails over to its replica"
	if m.bounds.Replicas {
		v.fence, v.spare = v.spare, false
	} else {
		what = "restarts from its disk, and knows no fence any more"
		v.forgot = v.forgot || v.fence
		v.fence = false
	}
	for car := range n.met {
		n.met[car][x] = false
	}
	for w, at := range n.write {
		if at == uint8(atSource+x) {
			n.write[w] = unknown
		}
	}
	if n.late.to == uint8(x) {
		n.late = message{}
	}
	for i := range n.co {
		m.miss(&n.co[i], x)
	}
	out.add(names[x], what, n)
}

// miss is what a coordinator sees of a server that failed.
func (m *Model) miss(c *coordinator, x int) {
	if c.pc < idle && c.pc != drainAgain {
		return
	}
	if x == int(c.epoch&1) {
		if c.ahead.up {
			c.ahead = m.cut(c.ahead)
		}
		return
	}
	c.back, c.copy, c.conn, c.unsure = feed{}, message{}, false, false
	switch c.pc {
	case await, note, check, journal, commit:
		c.moved = true // to be found at the commit
	default:
		c.ahead.dirty = true // everything is compared again
	}
}
