package fleet

import (
	"errors"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

// empty is FLUSHALL and FLUSHDB, at all masters. While a slot is between two of them one may
// have been emptied before it is given a key by the other, which had yet to be: what goes from
// one to another is there when both have done it, so they do it once more then, and only that
// is what the client is told of.
func (c *conn) empty(raw []byte) bool {
	if !c.drain() {
		return false
	}
	defer c.mayHangUp()()
	again, until := false, time.Time{}
	for hop := 1; ; hop++ {
		c.view = c.f.topo.Map()
		addresses := masters(c.view)
		reply, err := c.emptyOnce(addresses, raw)
		switch {
		case err != nil:
			if until.IsZero() {
				until = c.soonest(addresses)
			}
			var refused *setupError
			if errors.As(err, &refused) || !c.pause(hop, until) {
				return c.failed(err)
			}
			continue
		case reply == nil: // nobody knows whether it was done
			return false
		case again, resp.IsError(reply):
			return c.local(reply)
		}
		again = true
		quiet, err := c.atRest()
		if err != nil { // it was done, and may not have been all
			c.f.log.Debug("nobody knows whether slots were on their way while all was deleted", "err", err)
			return c.local(errorOf(changedText))
		}
		if quiet {
			return c.local(reply)
		}
	}
}

// soonest is up to when a command may wait for all of some nodes.
func (c *conn) soonest(addresses []string) time.Time {
	until := time.Now().Add(c.f.opts.Patience)
	for _, address := range addresses {
		if u := c.f.until(address); u.Before(until) {
			until = u
		}
	}
	return until
}

// atRest reports whether no slot is between two masters, nor has gone from one to another since
// the connection looked at the map.
func (c *conn) atRest() (bool, error) {
	before := orderOf(c.view)
	open, now, err := c.openings()
	return err == nil && len(open) == 0 && now.print == before.print, err
}

// emptyOnce has masters do a command, those again that have refused it. The reply is the first error, if
// there is one; nil is that one of them was lost before it had answered. The error is that one
// cannot be reached, and that nothing was done.
func (c *conn) emptyOnce(addresses []string, raw []byte) (reply []byte, err error) {
	if len(addresses) == 0 {
		return errorOf(downText), nil
	}
	nodes := make([]*node, len(addresses))
	for i, address := range addresses {
		if nodes[i], err = c.main(address); err != nil {
			return nil, err
		}
	}
	replies, lost := c.askEach(nodes, raw)
	if lost != nil {
		return nil, nil //nolint:nilerr // see above
	}
	until := time.Now().Add(c.f.opts.Patience)
	for i, each := range replies {
		answer := each[0]
		if _, refused := c.f.refused(&call{slot: -1, node: nodes[i]}, answer); refused {
			if answer, err = c.perform(c.ctx, &call{raw: raw, slot: -1, at: addresses[i], lone: true}, until); err != nil {
				return nil, nil //nolint:nilerr // see above
			}
		}
		if reply == nil || resp.IsError(answer) && !resp.IsError(reply) {
			reply = answer
		}
	}
	return reply, nil
}
