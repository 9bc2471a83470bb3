package proxy

import (
	"slices"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// A transaction that subscribes its client may publish to it too. In RESP2 servers before 7.2
// say that message in the middle of the array that answers EXEC, where it takes the place of a
// reply: as many come behind the array. So do those that SUBSCRIBE's confirmations push out.

// placed is a queued command and where its replies are among those to EXEC.
type placed struct {
	q     *item
	at, n int
}

// placed returns where the replies are to what was queued that matters. els are those that are
// known: one error is all that is said to who may not subscribe when it comes to it.
func (st *state) placed(els [][]byte) []placed {
	if len(st.effects) == 0 {
		return nil
	}
	then := st // as it is when the command runs
	if st.isConfirmed() {
		then = st.subscriptions()
	}
	out := make([]placed, 0, len(st.effects))
	shift := 0
	for _, q := range st.effects {
		n, at := confirmations(then, q), q.index+shift
		failed := at < len(els) && resp.IsError(els[at])
		if failed {
			n = 1
		}
		out = append(out, placed{q, at, n})
		shift += n - 1
		if isConfirming(q) && !failed {
			then.applySubscriptions(q)
		}
	}
	return out
}

// mayEcho reports whether messages that the transaction causes may look like replies of it.
func (st *state) mayEcho() bool { return st.proto == 2 && st.subscribes() }

// echoes returns to what the transaction subscribes its client, as the server calls it,
// where messages to it look like replies; nil elsewhere.
func (st *state) echoes(route router.Route) (names map[string]struct{}) {
	if !st.mayEcho() {
		return nil
	}
	names = make(map[string]struct{})
	for _, q := range st.effects {
		if q.spec.verb != vSubscribe {
			continue
		}
		for _, name := range q.args[1:] {
			names[string(channelOn(route, q.spec.set, name))] = struct{}{}
		}
	}
	return names
}

// repliesIn returns the elements of the array that answers EXEC, but for messages of these
// names. all has the place among them of each element, -1 for such a message.
func repliesIn(reply []byte, names map[string]struct{}) (els [][]byte, all []int) {
	for _, el := range resp.Elements(reply) {
		if isMessageOf(el, names) {
			all = append(all, -1)
			continue
		}
		all = append(all, len(els))
		els = append(els, el)
	}
	return els, all
}

func isMessageOf(el []byte, names map[string]struct{}) bool {
	if len(names) == 0 {
		return false
	}
	_, _, rest, _ := resp.Header(el)
	kind, rest, _ := resp.Text(rest)
	if !isDelivery(kind) {
		return false
	}
	name, _, _ := resp.Text(rest)
	_, its := names[string(name)]
	return its
}

// pick returns where in the array these replies, in order, are, as far as they are in it.
func pick(all, replies []int) (at []int) {
	for i, reply := range all {
		if _, found := slices.BinarySearch(replies, reply); found {
			at = append(at, i)
		}
	}
	return at
}
