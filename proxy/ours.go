package proxy

import (
	"slices"

	"github.com/crossfade/crossfade/internal/resp"
)

// Align asks on every subscriber's connection what is answered behind the last message. In a
// transaction that is queued among what the client has queued. Where the switch is undone the
// server runs it with the rest, and the client is not to see its reply.

// enqueueOurs remembers a command of ours that the server has queued.
func (st *state) enqueueOurs(it *item) {
	it.index = st.queued
	st.queued++
	st.effects = append(st.effects, it)
}

func (st *state) hasOurs() bool {
	return slices.ContainsFunc(st.effects, func(q *item) bool { return q.role == ours })
}

// ours returns which of the replies to EXEC answer commands of ours.
func (st *state) ours() []int { return st.repliesTo(func(q *item) bool { return q.role == ours }) }

// repliesTo returns which of the replies to EXEC answer such commands: some before them
// may have several.
func (st *state) repliesTo(such func(*item) bool) (at []int) {
	for _, p := range st.placed(nil) {
		if such(p.q) {
			at = append(at, p.at)
		}
	}
	return at
}

// forgetOurs follows that another server is told the transaction without them.
func (st *state) forgetOurs() {
	if !st.hasOurs() {
		return
	}
	st.effects = slices.DeleteFunc(st.effects, func(q *item) bool { return q.role == ours })
	for i, q := range st.queue {
		q.index = i
	}
	st.queued = len(st.queue)
}

// without takes the replies that are ours, so many in all, out of the array that answers
// EXEC. What SUBSCRIBE has said for more than one channel pushes others out of the array;
// those are left out when they come.
func without(ours []int, all int, reply []byte) []byte {
	els, pushed := resp.Split(reply)
	for _, i := range ours {
		if i < len(els) {
			els[i] = nil
		}
	}
	return joined(len(els)-all, els, pushed)
}

// isOurs reports whether the next reply to an EXEC answers a command of ours.
func (it *item) isOurs() bool { return it.settled && slices.Contains(it.ours, it.passed) }
