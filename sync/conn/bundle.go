package conn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/router"
)

// Bundle is the wires to one server, at one place: a single one, or to a cluster one for each
// master. Not for concurrent use, but for Close.
type Bundle struct {
	lines *Lines
	t     *cluster.Topology // nil: one server
	dial  func(context.Context, string) (*Wire, error)
	wires map[string]*Wire // to nodes, by address; those to former masters too
}

// Lines are the wires of a bundle as they were at one time: what was asked for on one of them
// is answered there, wherever the key is by now. It is immutable.
type Lines struct {
	one   *Wire // nil: a cluster
	m     *cluster.Map
	wires map[string]*Wire
	place router.Place
}

// Bundle connects to a server, as Wire does, or to all masters of a cluster. made, where it is
// not nil, is called with each wire before it is used, by several goroutines for a cluster;
// its error is that of the connecting. The caller owns the bundle. ctx bounds the connecting
// only.
func (p *Pool) Bundle(ctx context.Context, place router.Place, made func(*Wire) error) (*Bundle, error) {
	check := func(w *Wire, err error) (*Wire, error) {
		if err == nil && made != nil {
			if err = made(w); err != nil {
				w.Close()
			}
		}
		if err != nil {
			return nil, err
		}
		return w, nil
	}
	t := cluster.Of(p.endpoint)
	if t == nil {
		w, err := check(p.WireAt(ctx, place))
		if err != nil {
			return nil, err
		}
		return &Bundle{lines: &Lines{one: w, place: place}}, nil
	}
	if place.DB != 0 {
		return nil, Refusal(fmt.Sprintf("ERR %s is a cluster, which has database 0 alone, and not %d", p, place.DB))
	}
	b := &Bundle{t: t, lines: &Lines{m: new(cluster.Map), place: place}, wires: make(map[string]*Wire)}
	b.dial = func(ctx context.Context, address string) (*Wire, error) {
		w, err := check(p.Node(address).WireAt(ctx, place))
		if err != nil && ctx.Err() == nil && !errors.As(err, new(Refusal)) {
			t.Doubt(address)
		}
		return w, err
	}
	if err := b.Renew(ctx); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Renew sees to it that Lines has a wire to each master that there is now.
func (b *Bundle) Renew(ctx context.Context) error {
	if b.t == nil {
		return nil
	}
	m, err := b.t.Current(ctx)
	if err != nil {
		return err
	}
	if m == b.lines.m {
		return nil
	}
	if !m.Whole() {
		b.t.Doubt("")
		return fmt.Errorf("the cluster %s has slots without a master", b.t)
	}
	next := &Lines{m: m, place: b.lines.place, wires: make(map[string]*Wire)}
	masters := m.Masters()
	made := make([]*Wire, len(masters))
	together, tctx := errgroup.WithContext(ctx)
	for i, n := range masters {
		if made[i] = b.wires[n.Address]; made[i] != nil {
			continue
		}
		together.Go(func() (err error) {
			made[i], err = b.dial(tctx, n.Address)
			return err
		})
	}
	err = together.Wait()
	for i, n := range masters {
		if made[i] != nil {
			b.wires[n.Address], next.wires[n.Address] = made[i], made[i]
		}
	}
	if err != nil {
		return err
	}
	b.lines = next
	return nil
}

// Lines returns the wires as Renew has left them.
func (b *Bundle) Lines() *Lines { return b.lines }

// Many reports whether there is more than one server: what a wire says of all keys is not
// about all then.
func (b *Bundle) Many() bool { return b.t != nil }

// For returns the wire for a key.
func (l *Lines) For(key string) *Wire {
	if l.one != nil {
		return l.one
	}
	return l.wires[l.m.Owner(slot.Of(nameAt(l.place, key))).Address]
}

// Flush writes what was collected on all wires.
func (b *Bundle) Flush() error {
	if b.t == nil {
		return b.lines.one.Flush()
	}
	for _, w := range b.wires {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// RTT returns the longest round-trip time of the wires.
func (b *Bundle) RTT() (d time.Duration) {
	if b.t == nil {
		return b.lines.one.RTT()
	}
	for _, w := range b.wires {
		d = max(d, w.RTT())
	}
	return d
}

// Ping asks all servers, and returns once all have answered.
func (b *Bundle) Ping() error {
	list := []*Wire{b.lines.one}
	if b.t != nil {
		list = slices.Collect(maps.Values(b.lines.wires))
	}
	for _, w := range list {
		w.Command("PING")
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, w := range list {
		if err := w.Status(); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the connections. Whoever waits on one gets an error.
func (b *Bundle) Close() {
	if b.t == nil {
		b.lines.one.Close()
		return
	}
	for _, w := range b.wires {
		w.Close()
	}
}

// Broken tells that a wire has failed: where the servers are is to be asked before more are
// made.
func (b *Bundle) Broken() {
	if b.t != nil {
		b.t.Doubt("")
	}
}

// Displaced reports whether a server's refusal of a command on w says that it was not run
// because its slot, or the master, is elsewhere or away for the moment, and learns what it
// says.
func (b *Bundle) Displaced(w *Wire, err error) bool {
	var refusal Refusal
	if b.t == nil || !errors.As(err, &refusal) || !displaced(string(refusal)) {
		return false
	}
	if r, is := cluster.ParseRedirect(string(refusal), w.node); is {
		b.t.Moved(r, w.node)
	} else if doubtful(string(refusal)) {
		b.t.Doubt(w.node)
	}
	return true
}
