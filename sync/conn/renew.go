package conn

import (
	"net"
	"syscall"
)

// An address may lead to another server after a failover, while connections of before stay with
// the old one, which goes on answering as a replica. A client does not find out: it uses what it
// has for as long as that works.

// open is a connection of a pool's clients.
type open struct {
	net.Conn
	of *Pool
}

// Close implements net.Conn.
func (o *open) Close() error {
	o.of.openMu.Lock()
	delete(o.of.open, o)
	o.of.openMu.Unlock()
	return o.Conn.Close()
}

// openSocket is one that go-redis looks at before it uses it again: whether it was closed.
type openSocket struct {
	*open
	syscall.Conn
}

// opened takes note of a connection until it is closed.
func (p *Pool) opened(nc net.Conn) net.Conn {
	o := &open{Conn: nc, of: p}
	p.openMu.Lock()
	p.open[o] = struct{}{}
	p.openMu.Unlock()
	if socket, is := nc.(syscall.Conn); is {
		return openSocket{o, socket}
	}
	return o
}

// Renew closes all connections of the pool's clients: those that are made after it lead to where
// the address leads then. What is under way on one of them fails. Wires are their owners', and
// the nodes of a cluster have pools of their own.
func (p *Pool) Renew() {
	p.openMu.Lock()
	var list []*open
	for o := range p.open {
		list = append(list, o)
	}
	p.openMu.Unlock()
	for _, o := range list {
		_ = o.Conn.Close() // and the client forgets it when it finds out
	}
}
