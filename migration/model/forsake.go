package model

// A client may give up waiting for its sidecar, and go on with another one. What it had sent
// before has no outcome for it, and may still be in the old one's hands, or on its way. Where
// that is tried, each sidecar is its coordinator's: the second one serves when that has taken
// over.

// What became of such a write.
const (
	noDrift = iota
	inHand  // of sidecar 1
	toSource
	toTarget
)

// forsake adds that client 1 gives up, and what its sidecar does then.
func (m *Model) forsake(s *State, out *successors) {
	if s.left.Gives > 0 && s.write[writeA] < acked && s.write[writeB] == waiting {
		n := *s
		n.left.Gives--
		n.drift = inHand + s.write[writeA] // in the same order
		n.write[writeA], n.elsewhere = unknown, true
		n.met[1] = [2]bool{}
		out.add("client 1", "gives up waiting for a, and turns to sidecar 2", n)
	}
	if s.elsewhere && !s.taken && s.write[writeB] == waiting {
		n := *s
		n.write[writeB] = unknown
		out.add("client 1", "finds no other sidecar", n)
	}
	switch s.drift {
	case inHand:
		n := *s
		x := int(s.car[0] & 1)
		n.drift = toSource + uint8(x)
		out.add(sidecars[0], "sends a to "+names[x]+", of a client that has gone", n)
	case toSource, toTarget:
		m.arrive(s, int(s.drift-toSource), out)
	}
}

// succeed is what coordinator 2 makes of the first sidecar's clients when it takes over.
func (m *Model) succeed(n *State) {
	n.taken = true
	if !m.has(CloseClients) {
		return
	}
	n.drift = noDrift // and who connects later finds a newer token
	if n.write[writeA] < acked {
		n.write[writeA] = unknown
	}
	if b := n.write[writeB]; b == atSource || b == atTarget {
		n.write[writeB] = unknown
	}
	if !n.elsewhere {
		n.elsewhere, n.met[1] = true, [2]bool{}
	}
}

// arrive adds what a server makes of a write that nobody waits for.
func (m *Model) arrive(s *State, x int, out *successors) {
	v := &s.srv[x]
	if v.paused {
		return
	}
	n := *s
	if v.fence {
		n.drift = inHand
		out.add(names[x], "refuses a, which nobody waits for", n)
		return
	}
	n.srv[x].data = v.data.add(writeA)
	n.tell(x)
	n.drift = noDrift
	if x != int(s.epoch&1) {
		n.broken = wrongSide
	}
	out.add(names[x], "runs a, which nobody waits for", n)
}
