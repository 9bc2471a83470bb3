package model

// resume takes the next step of a coordinator that has started.
func (m *Model) resume(s *State, i int, who string, out *successors) {
	n := *s
	c := &n.co[i]
	next := m.order[c.pc]
	var what string
	switch c.pc {
	case readSource, readTarget:
		x := source
		if c.pc == readTarget {
			x = target
		}
		if m.has(NewestCounts) {
			c.best = newest(c.best, n.srv[x].key)
		} else if x == target {
			c.best = n.srv[x].key
		}
		if x == target {
			c.token = c.best.token + 1
		}
		what = "reads the control keys of " + names[x]
	case claimHome, claimOther:
		// The server that may be opened first: from then on nobody else can decide.
		x := int(c.best.epoch & 1)
		if c.pc == claimOther {
			x = 1 - x
		}
		if m.has(Tokens) && m.has(NewestCounts) && n.srv[x].key.after(c.best) {
			next, what = readSource, "finds newer control keys on "+names[x]+", and reads again"
			break
		}
		n.srv[x].key.token = c.token
		m.wait(&n, x)
		what = "puts its token on what it has read on " + names[x]
	case killOld:
		what = "decides"
		if m.has(KillOld) {
			n.late = message{}
			o := &n.co[1-i]
			o.ahead.dirty = o.ahead.dirty || o.copy.on
			o.copy, o.conn = message{}, false
			what = "closes the connections of older tokens, and decides"
		}
		if i == 1 && m.bounds.Gives > 0 {
			m.succeed(&n)
		}
		c.epoch, c.ahead = c.best.epoch, m.lost()
		switch {
		case c.best.phase == committing && m.has(NoSecondDrain):
			next, what = m.forward(), what+" to go on"
		case c.best.phase == committing:
			next, what = drainAgain, what+" to drain again"
		case c.best.phase == prepared:
			next, what = open, what+" to take the switch back"
		default:
			next = open
		}
	}
	c.pc = next
	out.add(who, what, n)
}

// forward is the first step behind the point of no return.
func (m *Model) forward() pc {
	if m.has(JournalFirst) {
		return journal
	}
	return commit
}

// lost is a feed that was interrupted.
func (m *Model) lost() feed { return feed{owed: m.has(GapIsRescanned)} }

// mirror adds what a coordinator does beside its steps: it follows the
// applications' server and copies.
func (m *Model) mirror(s *State, i int, who string, out *successors) {
	c := &s.co[i]
	from, to := int(c.epoch&1), 1-int(c.epoch&1)
	if c.unsure && m.has(KillOld) {
		n := *s
		n.late, n.co[i].unsure = message{}, false
		out.add(who, "closes the connection whose answer was lost", n)
	}
	if c.pc > drain && c.pc < adopt {
		if m.has(ReverseFirst) && !c.back.up && c.pc == await {
			n := *s
			n.co[i].back = feed{up: true}
			out.add(who, "subscribes to "+names[to]+" again", n)
		}
		return // frozen
	}
	if !c.ahead.up && (m.has(SubscribeFirst) || !c.ahead.owed) {
		n := *s
		n.co[i].ahead.up = true
		out.add(who, "subscribes to "+names[from], n)
	}
	if c.ahead.owed && (c.ahead.up || !m.has(SubscribeFirst)) {
		n := *s
		n.co[i].ahead.owed, n.co[i].ahead.dirty = false, true
		out.add(who, "scans "+names[from], n)
	}
	if c.ahead.told {
		n := *s
		n.co[i].ahead.told, n.co[i].ahead.dirty = false, true
		out.add(who, "hears that the key has changed on "+names[from], n)
	}
	if !c.conn {
		n := *s
		what := "connects to " + names[to] + " and finds no newer token"
		if m.outranked(s, to, c.token) {
			n.stop(i)
			what = "connects to " + names[to] + ", finds a newer token and stops"
		} else {
			n.co[i].conn = true
		}
		out.add(who, what, n)
	}
	if !c.ahead.dirty || !c.conn || c.unsure {
		return
	}
	n := *s
	if c.copy.on {
		if m.has(OneCopyAtATime) || s.late.on {
			return
		}
		n.late = c.copy
	}
	n.co[i].ahead.dirty = false
	n.co[i].copy = message{on: true, to: uint8(to), v: s.srv[from].data}
	out.add(who, "reads the key on "+names[from]+" and sends it to "+names[to], n)
}

// guard puts back what a server has forgotten: the record, and the fence. Replicas of the
// applications' server are opened by it as well.
func (m *Model) guard(s *State, i int, who string, out *successors) {
	c := &s.co[i]
	if home := int(c.epoch & 1); c.file.after(s.srv[home].key) {
		n := *s
		m.put(&n, i, home, c.file)
		out.add(who, "writes the record on "+names[home]+" again", n)
	}
	if home := int(c.epoch & 1); (s.srv[home].spare || s.srv[home].fence) && !m.outranked(s, home, c.token) {
		n := *s
		what := "opens the replicas of " + names[home]
		if n.srv[home].fence {
			what = "opens " + names[home] + ", which was a replica and fenced"
		}
		n.srv[home].fence, n.srv[home].spare = false, false
		out.add(who, what, n)
	}
	x := 1 - int(c.epoch&1)
	if !s.srv[x].forgot || s.srv[x].fence || c.epoch == 0 {
		return
	}
	n := *s
	if m.outranked(s, x, c.token) {
		n.stop(i)
		out.add(who, "finds a newer token and stops", n)
		return
	}
	n.srv[x].fence, n.srv[x].forgot = true, false
	n.co[i].ahead.dirty = true
	out.add(who, "raises the fence on "+names[x]+" again", n)
}

// network adds the arrival of copies.
func (m *Model) network(s *State, out *successors) {
	for i := range s.co {
		c := s.co[i].copy
		if !c.on {
			continue
		}
		n := *s
		n.co[i].copy = message{}
		m.land(&n, c)
		out.add("network", "the copy arrives on "+names[c.to], n)
		if s.left.Replies > 0 && !s.late.on {
			n := *s
			n.left.Replies--
			n.late, n.co[i].copy = c, message{}
			n.co[i].ahead.dirty = true
			n.co[i].unsure = m.has(KillOld)
			out.add("network", "nobody hears of the copy to "+names[c.to]+" any more, which is still under way", n)
		}
	}
	if s.late.on { // and may come again
		n := *s
		m.land(&n, s.late)
		out.add("network", "a late copy arrives on "+names[s.late.to], n)
	}
}

// land writes a copy.
func (m *Model) land(n *State, c message) {
	n.srv[c.to].data = c.v
	if c.to == n.epoch&1 {
		n.broken = strayCopy
	}
	n.tell(int(c.to))
}

// tell notifies who has subscribed to x.
func (s *State) tell(x int) {
	for i := range s.co {
		c := &s.co[i]
		if c.ahead.up && int(c.epoch&1) == x {
			c.ahead.told = true
		}
		if c.back.up && int(c.epoch&1) != x && c.pc > await { // before, it will be dropped
			c.back.told = true
		}
	}
}
