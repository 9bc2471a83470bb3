package fleet

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/spread"
)

// block serves a command that may wait in a server: on a connection of its own, and nothing
// after it until it is answered, as on one server. Where the key's slot goes elsewhere, so
// does the command, with what is left of its time.
func (c *conn) block(row spread.Row, args [][]byte, at int) bool {
	if !c.drain() {
		return false
	}
	c.flush()
	d, forever, _ := row.Blocks.Timeout(args[at])
	deadline := time.Now().Add(d)
	gone := c.hangsUp()
	defer gone.stop()
	if row.Way == spread.Here { // WAIT and WAITAOF are for all masters
		return c.waitAll(args, at)
	}
	command := c.f.commandOf(args[0])
	keys := command.Keys(nil, args)
	s, one := slotOf(args, keys)
	switch {
	case len(keys) == 0:
		return c.toAny(args, wireOf(args...)) && c.drain()
	case !one:
		return c.local(errorOf(crossText))
	}
	cl := &call{raw: wireOf(args...), slot: s, lone: true}
	until := c.limit(cl)
	var refusal []byte
	for hop := 0; ; hop++ {
		if hop > 0 {
			if !c.pause(hop, until) {
				return c.local(c.givenUp(refusal))
			}
			if !forever {
				left := bytes.Clone(row.Blocks.Format(time.Until(deadline)))
				args[at] = left
			}
		}
		cl = &call{raw: wireOf(args...), slot: s, lone: true}
		began := time.Now()
		answered, err := c.blockAt(cl)
		if time.Since(began) > c.f.opts.Patience { // it has waited for what it waits for
			hop, until = 0, time.Now().Add(c.f.opts.Patience)
		}
		switch {
		case errors.Is(err, errHungUp), err != nil && c.isClosed():
			return false
		case err != nil && cl.written: // nobody knows whether it has taken an element with it
			c.f.log.Debug("closing a connection: the outcome of a command is unknown", "err", err)
			return false
		case err != nil:
			var refused *setupError
			if errors.As(err, &refused) {
				return c.local(errorOf(refused.text))
			}
			refusal = nil
			continue
		}
		if r, again := c.f.refused(answered, answered.buf); again {
			refusal = answered.buf
			if r.to == nil || !r.to.Ask {
				continue
			}
			if answered, err = c.blockAsking(cl, r.to.Address); err != nil && cl.written {
				return false
			} else if err != nil {
				continue
			}
			if _, again := c.f.refused(answered, answered.buf); again {
				refusal = answered.buf
				continue
			}
		}
		return c.local(answered.buf)
	}
}

var errHungUp = errors.New("the client has hung up")

// blockAt has the master of the slot do a command that may block.
func (c *conn) blockAt(cl *call) (*call, error) {
	address, err := c.place(c.ctx, cl.slot, time.Now().Add(c.f.opts.Patience))
	if err != nil {
		return nil, err
	}
	return cl, c.blockOn(cl, address, nil)
}

// blockAsking is blockAt at the node to which a slot is on its way.
func (c *conn) blockAsking(cl *call, address string) (*call, error) {
	again := &call{raw: cl.raw, slot: cl.slot, lone: true}
	err := c.blockOn(again, address, askingWire)
	cl.written = again.written
	return again, err
}

func (c *conn) blockOn(cl *call, address string, before []byte) error {
	n, err := c.private(address)
	if err != nil {
		return err
	}
	if n.id == 0 { // by which it can be unblocked, where that may be asked
		replies, err := c.ask(n, words("CLIENT", "ID"))
		if err != nil {
			return err
		}
		n.id, _ = number(replies[0])
	}
	c.mu.Lock()
	if n.dead {
		c.mu.Unlock()
		return errNodeGone
	}
	if before != nil {
		n.append(cl, before)
	} else {
		n.append(cl)
	}
	c.blocked = cl
	c.mu.Unlock()
	n.flush()
	err = c.await(cl)
	c.mu.Lock()
	c.blocked = nil
	if !cl.done {
		cl.written = true
	}
	c.mu.Unlock()
	if err == nil {
		c.retire(n)
	}
	return err
}

// blockedAt is where a command of the connection blocks, and the id of its connection there;
// 0 where none does, or where that is not known.
func (c *conn) blockedAt() (address string, id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocked == nil {
		return "", 0
	}
	return c.blocked.node.address, c.blocked.node.id
}

// unblockAt says CLIENT UNBLOCK at a node, under the topology's user.
func (f *Fleet) unblockAt(ctx context.Context, address string, ids []int64) error {
	sock, err := f.dial(ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = sock.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = sock.Close() })
	defer stop()
	_ = sock.SetDeadline(time.Now().Add(f.opts.DialTimeout))
	at := f.topo.At(address)
	var wire []byte
	count := len(ids)
	if at.Password != "" {
		user := at.Username
		if user == "" {
			user = "default"
		}
		wire = append(wire, words("AUTH", user, at.Password)...)
		count++
	}
	for _, id := range ids {
		wire = append(wire, words("CLIENT", "UNBLOCK", strconv.FormatInt(id, 10), "ERROR")...)
	}
	if _, err := sock.Write(wire); err != nil {
		return err
	}
	var got []byte
	buf := make([]byte, 4096)
	for range count {
		var fr resp.Framer
		at := 0
		for {
			k, done, err := fr.Feed(got[at:])
			if err != nil {
				return err
			}
			if at += k; done {
				break
			}
			n, err := sock.Read(buf)
			if err != nil {
				return err
			}
			got = append(got, buf[:n]...)
		}
		if text, is := isError(got[:at]); is {
			return errors.New(text)
		}
		got = got[at:]
	}
	return nil
}

// unblock is CLIENT UNBLOCK of a client: by the ids that CLIENT ID answers here.
func (c *conn) unblock(args [][]byte, raw []byte) bool {
	id, ok := int64(0), false
	if len(args) == 3 || len(args) == 4 && (is(args[3], "timeout") || is(args[3], "error")) {
		id, ok = resp.Integer(args[2])
	}
	if !ok {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	other := c.f.byID(id)
	if other == nil {
		return c.local(integer(0))
	}
	address, at := other.blockedAt()
	if at == 0 {
		return c.local(integer(0))
	}
	n, err := c.main(address)
	if err != nil {
		return c.failed(err)
	}
	mode := "TIMEOUT"
	if len(args) == 4 {
		mode = string(args[3])
	}
	replies, err := c.ask(n, words("CLIENT", "UNBLOCK", strconv.FormatInt(at, 10), mode))
	if err != nil {
		return false
	}
	return c.local(replies[0])
}

// hangup closes the connection when the client does, while nobody reads what it says.
type hangup struct {
	c    *conn
	done chan struct{}
	once sync.Once
}

func (c *conn) hangsUp() *hangup {
	h := &hangup{c: c, done: make(chan struct{})}
	raw, err := c.sock.SyscallConn()
	if err != nil {
		close(h.done)
		return h
	}
	go func() {
		defer close(h.done)
		if h.wait(raw.Read) {
			c.close()
		}
	}()
	return h
}

// mayHangUp is hangsUp of who has had the time for its last words; the caller ends it.
func (c *conn) mayHangUp() (stop func()) {
	var mu sync.Mutex
	var h *hangup
	ended := false
	late := time.AfterFunc(lastWords, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			h = c.hangsUp()
		}
	})
	return func() {
		late.Stop()
		mu.Lock()
		defer mu.Unlock()
		if ended = true; h != nil {
			h.stop()
		}
	}
}

// wait returns true when the client has hung up, and false when it was stopped.
func (h *hangup) wait(read func(func(fd uintptr) bool) error) bool {
	var one [1]byte
	for {
		n, failed := 0, error(nil)
		err := read(func(fd uintptr) bool {
			n, _, failed = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			return !errors.Is(failed, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return !isTimeout(err)
		case failed != nil || n == 0:
			return true
		}
		// It has said more already, which is not its end; look for that now and then.
		for range 10 {
			time.Sleep(10 * time.Millisecond)
			if h.c.sockStopped() {
				return false
			}
		}
		if hungUp(h.c.sock) {
			return true
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// hungUp looks whether the other end of a socket is closed.
func hungUp(sock *net.UnixConn) (gone bool) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n == 1 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

// stop ends the watch, and returns when it has ended.
func (h *hangup) stop() {
	h.once.Do(func() {
		h.c.watchOver.Store(true)
		_ = h.c.sock.SetReadDeadline(time.Unix(1, 0))
		<-h.done
		h.c.watchOver.Store(false)
		_ = h.c.sock.SetReadDeadline(time.Time{})
	})
}

func (c *conn) sockStopped() bool { return c.watchOver.Load() || c.isClosed() }
