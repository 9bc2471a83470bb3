package fleet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/internal/spread"
)

// waitKeys begins the names of the keys that claim sets and deletes in one step; a hash tag
// leads each to the master that is asked.
const waitKeys = "crossfade:wait"

// noClaim is the answer where WAIT could only be answered with a guess.
const noClaim = "ERR Crossfade: WAIT on a cluster needs the right to MULTI, and to SET and DEL the keys " + waitKeys + "{*}: "

// waitAll is WAIT, and WAITAOF: for what was written on this connection, or before on others,
// at any master. So each is asked, behind something that it replicates for this connection,
// since servers wait for what the connection that asks has written. The least is the answer.
func (c *conn) waitAll(args [][]byte, at int) bool {
	d, forever, _ := spread.LastMillis.Timeout(args[at])
	deadline, until := time.Now().Add(d), time.Now().Add(c.f.opts.Patience)
	var nodes []*node
	for hop := 0; ; hop++ {
		var refusal []byte
		var final bool
		var err error
		if nodes, refusal, final, err = c.claim(); err != nil {
			return c.failed(err)
		}
		if len(nodes) > 0 && refusal == nil {
			break
		}
		if final || !c.pause(hop, until) {
			return !c.isClosed() && c.local(c.givenUp(refusal))
		}
		_ = c.f.topo.Refresh(c.ctx)
	}
	if !forever {
		args[at] = spread.LastMillis.Format(time.Until(deadline))
	}
	replies, err := c.askEach(nodes, wireOf(args...))
	if err != nil {
		if c.isClosed() {
			return false
		}
		i := 0
		for replies[i] != nil {
			i++
		}
		return c.local(errorOf(fmt.Sprintf("ERR Crossfade: a node of the cluster was lost meanwhile: %s", nodes[i].address)))
	}
	how := spread.Least
	if is(args[0], "waitaof") {
		how = spread.And // the least of each element
	}
	all := make([][]byte, len(nodes))
	for i := range replies {
		all[i] = replies[i][0]
	}
	return c.local(merge(&fan{merge: how}, all))
}

// claim has every master replicate something for this connection. A server since Redis 7.2
// has a connection wait for the last of its own commands that was replicated, and answers at
// once where there was none, be it that another connection of the client's has written; and
// what is published goes to replicas by the cluster's own connections there, and counts for
// nothing. So a key is set and deleted in one step, by a slot of each master.
//
// refusal is the answer where one does not do it: final, or one that another map of the
// cluster may change; nil and no nodes: the cluster has no master.
func (c *conn) claim() (nodes []*node, refusal []byte, final bool, err error) {
	c.view = c.f.topo.Map()
	var keys []string
	for _, m := range c.view.Masters() {
		n, err := c.main(m.Address)
		if err != nil {
			return nil, nil, false, err
		}
		slots := c.view.Slots(m) // any of them, since the first may be moving
		nodes, keys = append(nodes, n), append(keys, waitKeys+"{"+slot.Tag(slots[rand.IntN(len(slots))])+"}")
	}
	hellos, lost := c.askEach(nodes, words("HELLO"))
	if lost != nil {
		return nil, nil, false, c.lostIn(lost)
	}
	var newer []*node
	var names []string
	for i, h := range hellos {
		if !resp.WaitsForAll(h[0]) {
			newer, names = append(newer, nodes[i]), append(names, keys[i])
		}
	}
	// Who may not say MULTI would do at once what is to be queued: so that is awaited.
	begun, lost := c.askEach(newer, words("MULTI"))
	for i, n := range newer {
		switch {
		case begun[i] == nil:
			continue
		case resp.IsError(begun[i][0]):
			refusal, final = claimRefused(resp.ErrorText(begun[i][0])), true
			continue
		}
		replies, gone := c.ask(n, words("SET", names[i], ""), words("DEL", names[i]), words("EXEC"))
		if gone != nil {
			lost = gone
			continue
		}
		for _, r := range append(replies, resp.Elements(replies[2])...) {
			text := resp.ErrorText(r)
			_, moved := cluster.ParseRedirect(text, n.address)
			switch {
			case text == "":
				continue
			case final:
			case moved, cluster.Later(text), prefixed(text, "READONLY"):
				refusal = r
			default:
				refusal, final = claimRefused(text), true
			}
			break
		}
	}
	if lost != nil {
		return nil, nil, false, c.lostIn(lost)
	}
	return nodes, refusal, final, nil
}

// claimRefused is the answer where a master refuses it for good: why in its own words, as that
// it is out of memory, where it is not the client that lacks a right.
func claimRefused(text string) []byte {
	if prefixed(text, "NOPERM") || prefixed(text, "ERR unknown") {
		text = noClaim + text
	}
	return errorOf(text)
}

// lostIn is why a command of ours was not answered: nil where that was the node's end, and
// it may be tried again.
func (c *conn) lostIn(err error) error {
	if c.isClosed() || errors.Is(err, errClosed) {
		return errClosed
	}
	return nil
}
