package model

import (
	"fmt"
	"slices"
	"strings"
)

// successor is a state and what leads to it.
type successor struct {
	who, what string
	state     State
}

type successors struct {
	m    *Model
	list []successor
}

func (o *successors) add(who, what string, s State) {
	o.list = append(o.list, successor{who, what, o.m.judge(s)})
}

// next fills out with everything that may happen in s.
func (m *Model) next(s *State, out *successors) {
	out.m, out.list = m, out.list[:0]
	for i := range s.co {
		m.coordinate(s, i, out)
	}
	m.network(s, out)
	m.traffic(s, out)
	m.faults(s, out)
}

// Result is what trying everything came to.
type Result struct {
	States int
	Moves  int    // from a state to another
	Depth  int    // of the longest way to a state that has no shorter one
	Part   bool   // there was no room for all: what was tried is whole to Depth - 1, and the end is not looked for
	Why    string // "" when every property holds in every state
	Trace  []string
}

// stuck is the property that is not of one state: whatever has happened, there is
// a way to the end.
const stuck = "a switch, or a client, can never come to its end"

// room is how many states there is room for: some gigabytes.
const room = 4_000_000

// Explore tries everything, the fewest steps first, until a property breaks or
// nothing new is left. The trace is one of the shortest that lead there.
func (m *Model) Explore() Result {
	first := m.start()
	seen := map[State]int32{first: 0}
	states := []State{first}
	parents := []int32{-1}
	var moves [][2]int32
	var out successors
	var r Result
	level, depth := 1, 0
	for at := 0; at < len(states); at++ {
		if at == level {
			level = len(states)
			depth++
		}
		if len(states) > room {
			r.States, r.Moves, r.Depth, r.Part = len(states), len(moves), depth, true
			return r
		}
		s := states[at]
		m.next(&s, &out)
		for k := range out.list {
			n := &out.list[k].state
			id, known := seen[*n]
			if !known {
				id = int32(len(states))
				seen[*n] = id
				states = append(states, *n)
				parents = append(parents, int32(at))
			}
			moves = append(moves, [2]int32{int32(at), id})
			if !known && n.broken != holds {
				r.States, r.Moves, r.Depth = len(states), len(moves), depth+1
				r.Why, r.Trace = n.broken.String(), m.trace(states, parents, id)
				return r
			}
		}
	}
	r.States, r.Moves, r.Depth = len(states), len(moves), depth
	if id := hopeless(states, moves); id >= 0 {
		r.Why, r.Trace = stuck, m.trace(states, parents, id)
	}
	return r
}

// hopeless returns the first state from which no way leads to the end, or -1.
func hopeless(states []State, moves [][2]int32) int32 {
	into := make([]int32, len(states)+1) // where the moves into a state begin in back
	for _, mv := range moves {
		into[mv[1]+1]++
	}
	for i := range states {
		into[i+1] += into[i]
	}
	back, fill := make([]int32, len(moves)), slices.Clone(into)
	for _, mv := range moves {
		back[fill[mv[1]]] = mv[0]
		fill[mv[1]]++
	}
	ends := make([]bool, len(states))
	var queue []int32
	for i := range states {
		if states[i].settled() {
			ends[i] = true
			queue = append(queue, int32(i))
		}
	}
	for len(queue) > 0 {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, before := range back[into[at]:into[at+1]] {
			if !ends[before] {
				ends[before] = true
				queue = append(queue, before)
			}
		}
	}
	return int32(slices.Index(ends, false))
}

// trace tells the way to a state, a line a step, with the lists of both servers
// where they have changed.
func (m *Model) trace(states []State, parents []int32, id int32) []string {
	var ids []int32
	for ; id >= 0; id = parents[id] {
		ids = append(ids, id)
	}
	slices.Reverse(ids)
	var lines []string
	var out successors
	for k := 1; k < len(ids); k++ {
		was, is := &states[ids[k-1]], &states[ids[k]]
		m.next(was, &out)
		at := slices.IndexFunc(out.list, func(o successor) bool { return o.state == *is })
		line := fmt.Sprintf("%2d  %-14s %s", k, out.list[at].who, out.list[at].what)
		if was.srv[0].data != is.srv[0].data || was.srv[1].data != is.srv[1].data {
			line = fmt.Sprintf("%-82s S: %-5s T: %s", line, is.srv[0].data, is.srv[1].data)
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}
