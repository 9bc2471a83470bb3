package model

import "slices"

// pc is the step that a coordinator takes next.
type pc uint8

const (
	down pc = iota

	// After a start: find out, then finish or take back.
	readSource
	readTarget
	claimHome
	claimOther
	killOld
	drainAgain // only without NoSecondDrain

	idle // the copy goes on by itself

	// A switch, as in PROTOCOL §3. What is not here (the hold, drain 1, the check)
	// makes it short and rests nothing on itself.
	prepare
	arm
	listenBack
	pause
	raise
	raiseSpare // only with replicas
	barrier
	drain
	await
	note
	check
	journal
	commit
	replicate
	open
	adopt

	undo
	nSteps
)

// inCode names the steps of the code for which those of the model stand.
var inCode = [nSteps]string{
	prepare: "prepare", arm: "prepare", listenBack: "prepare", pause: "soft-fence", raise: "hard-fence", raiseSpare: "hard-fence",
	barrier: "drain-2", drain: "drain-2", await: "drain-2", note: "journal", journal: "journal",
	commit: "commit", replicate: "commit", open: "commit", adopt: "after",
}

// Steps returns the steps of the code in the order in which the whole model takes them.
func Steps() []string {
	m := New(Bounds{})
	var names []string
	for at := m.order[idle]; at != idle; at = m.order[at] {
		if name := inCode[at]; len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	return names
}

// arrange puts the steps in order: the contract's, but for the rules that were removed.
func (m *Model) arrange() {
	list := []pc{idle, prepare, arm}
	if m.has(ReverseFirst) {
		list = append(list, listenBack)
	}
	list = append(list, pause)
	switch {
	case !m.has(PauseIsNoFence):
		list = append(list, barrier, drain)
	case !m.has(FenceFirst):
		list = append(list, barrier, drain, raise)
	case !m.has(BarrierBehindFence):
		list = append(list, barrier, raise, drain)
	default:
		list = append(list, raise, barrier, drain)
	}
	if at := slices.Index(list, raise); at >= 0 && m.spares() {
		list = slices.Insert(list, at+1, raiseSpare)
	}
	list = append(list, await)
	switch {
	case !m.has(JournalFirst):
		list = append(list, note, commit, journal)
	case !m.has(FenceAtJournal):
		list = append(list, check, note, journal, commit)
	default:
		list = append(list, note, journal, commit)
	}
	list = append(list, replicate, open, adopt, idle)
	for i := range len(list) - 1 {
		m.order[list[i]] = list[i+1]
	}
	m.order[readSource], m.order[readTarget] = readTarget, claimHome
	if !m.has(ClaimFirst) {
		m.order[readTarget] = killOld
	}
	m.order[claimHome], m.order[claimOther] = claimOther, killOld
	m.order[undo] = idle
}

// spares reports whether replicas are fenced with their master.
func (m *Model) spares() bool { return m.bounds.Replicas && m.has(FenceOnReplicas) }

// coordinate adds what coordinator i may do.
func (m *Model) coordinate(s *State, i int, out *successors) {
	c := &s.co[i]
	who := [2]string{"coordinator 1", "coordinator 2"}[i]
	if c.pc == down {
		if s.left.Starts > 0 {
			n := *s
			n.left.Starts--
			n.co[i].pc, n.co[i].best = readSource, c.file
			out.add(who, "starts, with what its state file says", n)
		}
		return
	}
	if s.left.Crashes > 0 && s.left.Starts > 0 {
		n := *s
		n.left.Crashes--
		n.stop(i)
		out.add(who, "dies", n)
	}
	if c.pc < idle && c.pc != drainAgain {
		m.resume(s, i, who, out)
		return
	}
	m.mirror(s, i, who, out)
	if c.pc == idle {
		m.guard(s, i, who, out)
		if s.left.Switches == 0 {
			return
		}
	}
	if s.left.Aborts > 0 && c.pc > prepare && c.pc < journal && c.file.phase != committing {
		n := *s
		n.left.Aborts--
		n.co[i].pc = undo
		out.add(who, "gives up", n)
	}
	if left := int(c.epoch & 1); c.pc == raise && m.spares() && !s.srv[left].spare && !m.outranked(s, left, c.token) {
		n := *s // both are asked at the same time
		n.srv[left].spare = true
		out.add(who, "raises the fence on the replicas of "+names[left], n)
	}
	n := *s
	if what := m.take(&n, i); what != "" {
		out.add(who, what, n)
	}
}

// stop ends a coordinator; what it has sent may still arrive.
func (s *State) stop(i int) {
	c := &s.co[i]
	if c.copy.on && !s.late.on {
		s.late = c.copy
	}
	*c = coordinator{file: c.file}
}

// outranked reports whether a newer coordinator has written to the server.
func (m *Model) outranked(s *State, x int, token uint8) bool {
	return m.has(Tokens) && s.srv[x].key.token > token
}

// put writes to the control keys and the state file, and waits for replicas.
func (m *Model) put(s *State, i, x int, e entry) {
	s.srv[x].key, s.co[i].file = e, e
	m.wait(s, x)
}

// wait is WAIT: what the server has now will survive a failover.
func (m *Model) wait(s *State, x int) {
	if v := &s.srv[x]; m.bounds.Replicas && m.has(WaitForReplicas) {
		v.kept, v.kept2 = v.data, v.key
	}
}

// take takes the next step of a switch in n. It returns what was done, "" when
// it is not time yet.
func (m *Model) take(n *State, i int) string {
	c := &n.co[i]
	from, to := int(c.epoch&1), 1-int(c.epoch&1)
	left, entered := &n.srv[from], &n.srv[to]
	superseded := func(x int) bool {
		if m.outranked(n, x, c.token) {
			n.stop(i)
			return true
		}
		return false
	}
	const stops = "finds a newer token and stops"
	next := m.order[c.pc]
	var what string
	switch c.pc {
	case idle:
		n.left.Switches--
		what = "is asked to switch"
	case prepare, arm:
		x, key := to, entry{c.token + 1, prepared, c.epoch}
		what = "takes a new token, and writes it on " + names[to]
		if c.pc == arm {
			x, key.token = from, c.token
			what = "writes its token on " + names[from]
		}
		if m.has(Tokens) && n.srv[x].key.token >= key.token {
			n.stop(i)
			return stops
		}
		c.token = key.token
		m.put(n, i, x, key)
	case listenBack:
		c.back = feed{up: true}
		what = "subscribes to " + names[to] + " for the way back"
	case pause:
		left.paused = true
		what = "pauses the writers of " + names[from]
	case raise:
		if superseded(from) {
			return stops
		}
		if m.has(Tokens) && left.key.token < c.token { // flushed, or lost in a failover
			next, what = undo, "does not find its token on "+names[from]
			break
		}
		left.fence, left.paused, left.forgot = true, false, false
		what = "raises the fence on " + names[from]
	case raiseSpare:
		if superseded(from) {
			return stops
		}
		what = "knows that the replicas of " + names[from] + " are fenced too"
		switch {
		case !left.fence: // one of them has become the master meanwhile
			next, what = undo, "finds that a replica of "+names[from]+" is none any more"
		case !left.spare:
			left.spare, what = true, "raises the fence on the replicas of "+names[from]
		}
	case barrier:
		if !c.ahead.up {
			return ""
		}
		c.ahead.dirty, c.ahead.told = c.ahead.dirty || c.ahead.told, false
		what = "gets the PONG of its barrier on " + names[from]
	case drain, drainAgain:
		f := c.ahead
		if !f.up || f.owed || f.dirty || c.unsure || c.copy.on && m.has(AllAcks) {
			return ""
		}
		what = "finds no key dirty"
		if c.pc == drainAgain {
			next = m.forward()
		}
	case await:
		if m.has(SameServer) && c.moved {
			c.moved, c.ahead.dirty, next = false, true, drain
			what = "finds that " + names[to] + " is not what was drained, and copies again"
			break
		}
		if m.has(ReverseFirst) {
			if !c.back.up {
				return ""
			}
			c.back.told = false
		}
		m.wait(n, to)
		what = "drops what the way back was told so far"
		if m.bounds.Replicas {
			what += ", waits for the replicas of " + names[to]
		}
		if c.file.phase == committing { // it was filled again
			next = commit
		}
	case note:
		c.file = entry{c.token, committing, c.epoch}
		what = "notes in its state file that it will write the journal"
	case check:
		what = "finds the fence standing"
		if !left.fence {
			next, what = undo, "finds the fence gone"
		}
	case journal:
		if superseded(from) {
			return stops
		}
		there := left.key.phase == committing && left.key.epoch == c.epoch
		if m.has(FenceAtJournal) && m.has(PauseIsNoFence) && !left.fence && !there {
			next, what = undo, "finds no fence on "+names[from]+", and writes no journal"
			break
		}
		m.put(n, i, from, entry{c.token, committing, c.epoch})
		n.decided = max(n.decided, c.epoch+1)
		what = "writes the journal on " + names[from]
	case commit:
		if superseded(to) {
			return stops
		}
		if m.has(SameServer) && c.moved && c.best == (entry{}) { // who took over does not know what was lost
			c.moved, c.ahead.dirty, next = false, true, drain
			what = "finds that " + names[to] + " is not what was drained, and copies again"
			break
		}
		entered.key = entry{c.token, committed, c.epoch + 1}
		c.file = entered.key
		n.epoch = max(n.epoch, c.epoch+1)
		what = "writes COMMITTED on " + names[to]
	case replicate:
		m.wait(n, to)
		c.epoch++
		if c.ahead = c.back; !c.ahead.up {
			c.ahead = m.lost()
		}
		c.back = feed{}
		what = "lets the way back count"
	case open, undo:
		if superseded(int(c.epoch & 1)) {
			return stops
		}
		v := &n.srv[c.epoch&1]
		v.fence, v.paused, v.forgot = false, false, false
		if m.has(ClaimFirst) || c.best == (entry{}) {
			m.put(n, i, int(c.epoch&1), entry{c.token, quiet, c.epoch})
		}
		what = "opens " + names[c.epoch&1]
		if c.pc == undo {
			c.ahead.dirty = c.ahead.dirty || c.moved
			c.back, c.moved = feed{}, false
			what = "takes the switch back, and opens " + names[from]
		}
	case adopt:
		if !m.has(ReverseFirst) && c.best == (entry{}) {
			c.ahead = feed{up: true}
		}
		c.best, c.conn = entry{}, false
		what = "copies " + names[from] + " to " + names[to] + " from now on"
	}
	c.pc = next
	return what
}

// names are the servers'.
var names = [2]string{"S", "T"}
