package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/router"
)

// proofLasts is how long it is believed that the server wants no password.
const proofLasts = time.Second

// bearing returns what brings a connection to where a guest's commands may be
// shared: protocol, user and database. ok is false when the database is not in
// the map.
func (s *Server) bearing(st *state, route router.Route) (lines []line, key string, ok bool) {
	place, mapped := route.Place(st.db)
	if !mapped {
		return nil, "", false
	}
	core := state{proto: st.proto, db: st.db, who: st.who}
	lines = s.setup(&core, route, greeted)
	key = bearingKey(route.Side, lines)
	if place.Prefix != "" { // others may be told the same, and have another one
		key += "\x00" + place.Prefix
	}
	return lines, key, true
}

func bearingKey(side router.Side, lines []line) string {
	var key strings.Builder
	key.WriteString(side.String())
	for _, ln := range lines {
		key.Write(ln.wire)
	}
	return key.String()
}

// bind finds the trunk for a guest, nil when it has to wait, is pinned or was closed.
func (l *loop) bind(g *guest) *trunk {
	if !l.srv.cfg.Shared {
		return l.bindOwn(g)
	}
	st := g.state()
	lines, key, ok := l.srv.bearing(&st, l.route)
	if !ok || l.srv.wantsAuth(&st) {
		l.pin(g)
		return nil
	}
	t := l.trunks[key]
	if t != nil && t.failed != 0 && l.now-t.failed > int64(redialWait) {
		l.lose(t, t.err)
		t = nil
	}
	switch {
	case t == nil:
		t = &trunk{l: l, key: key, side: l.route.Side, db: st.db, lines: lines}
		l.trunks[key] = t
		l.dial(t, l.route, lines)
		g.isHeld(l.now)
		t.wait(g)
		return nil
	case t.alone:
		l.pin(g)
		return nil
	case t.failed != 0:
		l.refuse(g, t.err)
		return nil
	case !t.ready:
		g.isHeld(l.now)
		t.wait(g)
		return nil
	case g.stranger(&st) && (t.proving || l.now-t.proved > int64(proofLasts)):
		t.wait(g)
		l.prove(t, lines)
		return nil
	case g.stranger(&st) && t.barred:
		l.pin(g)
		return nil
	}
	g.trunk, g.gen = t, l.gen
	return t
}

// stranger reports whether g has neither authenticated nor ever been let in without.
func (g *guest) stranger(st *state) bool { return g.trunk == nil && !st.authed && !g.letIn }

// prove finds out whether the server would still let a new client in that has not
// authenticated: the shared connection may be older than the server's password. Where
// it does not say, because it has no room or does not answer, such a client gets a
// connection of its own, or what it would get without a proxy.
func (l *loop) prove(t *trunk, lines []line) {
	if t.proving {
		return
	}
	t.proving = true
	route := l.route
	l.srv.serving.Go(func() {
		k, fd, err := l.srv.dialTrunk(l.srv.stopping, l.srv.reachDamped, route, lines)
		if err == nil {
			l.srv.discard(k, fd)
		}
		l.post(func() {
			t.proving, t.proved = false, l.now
			t.barred = err != nil
			l.relieve(t)
		})
	})
}

// bindOwn connects a guest that does not share.
func (l *loop) bindOwn(g *guest) *trunk {
	if t := g.trunk; t != nil && !t.dead {
		switch {
		case t.failed == 0 && t.ready:
			g.gen = l.gen
			return t
		case t.failed == 0:
			g.isHeld(l.now)
			t.wait(g)
			return nil
		}
	}
	st := g.state()
	if _, mapped := l.route.DB(st.db); !mapped || l.srv.wantsAuth(&st) {
		l.pin(g)
		return nil
	}
	g.trunk = &trunk{l: l, side: l.route.Side, db: st.db, owner: g}
	l.dial(g.trunk, l.route, l.srv.setup(&st, l.route, whole))
	g.isHeld(l.now)
	g.trunk.wait(g)
	return nil
}

// attach makes a connection that a session has used a guest's own again. Where that
// cannot be, welcome, which must follow, gets it another one.
func (l *loop) attach(g *guest, k *link, fd int) {
	st := g.state()
	t := &trunk{l: l, side: k.side, db: st.db, owner: g}
	g.trunk = t
	if k.side != l.route.Side || k.route.Epoch != l.route.Epoch {
		t.owner, g.trunk = nil, nil // the traffic was moved meanwhile
		t.dead = true
	}
	l.connected(t, k, fd, nil)
	if !t.ready {
		g.trunk = nil
	}
	g.gen = l.gen
}

// detach takes a guest's own connection out of the loop, for a session. Nothing
// is in flight. It returns nil when there is none that could be used.
func (l *loop) detach(g *guest) *link {
	t := g.trunk
	if t == nil || t.owner != g || !t.ready || t.dead || t.side != l.route.Side || !t.fr.AtStart() {
		return nil
	}
	g.trunk, t.owner, t.dead = nil, nil, true
	l.unwatch(t.fd)
	conn, err := epoll.Give(t.fd)
	if err != nil {
		l.srv.dropLink(t.link)
		return nil
	}
	keepAlive(conn) // making a connection of it has set Go's own
	k := t.link
	k.conn, k.route = conn, l.route
	return k
}

// dial connects a trunk; its waiters go on when that has ended.
func (l *loop) dial(t *trunk, route router.Route, lines []line) {
	l.srv.serving.Go(func() {
		k, fd, err := l.srv.dialTrunk(l.srv.stopping, l.srv.reachDamped, route, lines)
		if !l.post(func() { l.connected(t, k, fd, err) }) && err == nil {
			l.srv.discard(k, fd)
		}
	})
}

// errAlone says that a server wants each client to authenticate.
var errAlone = errors.New("the server wants AUTH")

// dialTrunk returns a connection that is set up, as a descriptor that is the
// caller's, as is the place of k in the server's books.
func (s *Server) dialTrunk(ctx context.Context, reach reacher, route router.Route, lines []line) (k *link, fd int, err error) {
	if s.cfg.Shared {
		lines = append(slices.Clone(lines), line{wire: words("PING"), what: "PING", noAuth: true, lenient: true})
	}
	k, err = reach(ctx, route, func(k *link) error {
		err := k.run(ctx, lines)
		switch {
		case err == nil && k.unselected:
			err = errAlone
		case err == nil && k.busy != nil:
			err = k.busy
		case err == nil:
			err = s.admitted(ctx, k)
		}
		return err
	})
	if err != nil {
		return nil, -1, err
	}
	if fd, err = s.descriptor(k.conn); err != nil {
		k.close()
		return nil, -1, err
	}
	return k, fd, nil
}

// discard closes a connection that dialTrunk has made and nobody wants.
func (s *Server) discard(k *link, fd int) {
	epoll.Close(fd)
	s.dropLink(k)
}

// connected takes over a connection that was dialled, or the news that it could not be.
func (l *loop) connected(t *trunk, k *link, fd int, err error) {
	if t.dead || l.ended {
		if err == nil {
			l.srv.discard(k, fd)
		}
		return
	}
	if err == nil && k.severed.Load() {
		l.srv.discard(k, fd)
		err = errSevered
	}
	switch {
	case errors.Is(err, errAlone):
		t.alone, t.failed, t.wanted = true, l.now, l.now
	case err != nil:
		t.err, t.failed, t.wanted = err, l.now, l.now
	default:
		t.link, t.fd, t.ready, t.interest, t.proved, t.wanted = k, fd, true, epoll.Read, l.now, l.now
		t.with = prefixOf(k.route, t.db)
		if err := l.watch(fd, t.interest, watched{t: t}); err != nil {
			t.ready = false
			l.srv.discard(k, fd)
			t.err, t.failed = err, l.now
		}
	}
	waiters := t.waiters
	t.waiters = nil
	for _, g := range waiters {
		switch {
		case t.owner == nil || t.ready:
			l.goOn(g, forTrunk)
		case t.alone:
			l.pin(g)
		case !g.gone:
			l.refuse(g, t.err)
		}
	}
}

// prepare connects to a side what the guests of this moment will need there.
func (l *loop) prepare(ctx context.Context, route router.Route) error {
	if !l.srv.cfg.Shared {
		return l.prepareOwn(ctx, route)
	}
	wanted := make(map[string][]line)
	dbs := make(map[string]int)
	l.call(func() {
		for g := range l.guests {
			st := g.state()
			lines, key, ok := l.srv.bearing(&st, route)
			if ok && l.trunks[key] == nil && g.trunk != nil {
				wanted[key], dbs[key] = lines, st.db
			}
		}
	})
	var errs []error
	for key, lines := range wanted {
		k, fd, err := l.srv.dialTrunk(ctx, l.srv.reach, route, lines)
		switch {
		case errors.Is(err, errAlone):
			continue
		case err != nil:
			errs = append(errs, err)
			continue
		}
		put := func() {
			if l.trunks[key] != nil {
				l.srv.discard(k, fd)
				return
			}
			t := &trunk{l: l, key: key, side: route.Side, db: dbs[key], lines: lines}
			l.trunks[key] = t
			l.connected(t, k, fd, nil)
		}
		if !l.post(put) {
			l.srv.discard(k, fd)
		}
	}
	return errors.Join(errs...)
}

// prepareOwn connects every guest that does not share to a side.
func (l *loop) prepareOwn(ctx context.Context, route router.Route) error {
	type want struct {
		g     *guest
		db    int
		lines []line
	}
	var wanted []want
	l.call(func() {
		for g := range l.guests {
			st := g.state()
			ready := g.warm != nil && !g.warm.dead && g.warm.side == route.Side && g.warm.db == st.db
			if _, mapped := route.DB(st.db); mapped && g.trunk != nil && g.trunk.side != route.Side && !ready {
				wanted = append(wanted, want{g, st.db, l.srv.setup(&st, route, whole)})
			}
		}
	})
	return bounded(wanted, func(w want) error {
		k, fd, err := l.srv.dialTrunk(ctx, l.srv.reach, route, w.lines)
		if err != nil && !errors.Is(err, errAlone) {
			return fmt.Errorf("client %d: %w", w.g.id, err)
		}
		if err != nil {
			return nil
		}
		put := func() {
			if w.g.gone {
				l.srv.discard(k, fd)
				return
			}
			if w.g.warm != nil {
				l.lose(w.g.warm, errUpstreamGone)
			}
			w.g.warm = &trunk{l: l, side: route.Side, db: w.db, owner: w.g}
			l.connected(w.g.warm, k, fd, nil)
		}
		if !l.post(put) {
			l.srv.discard(k, fd)
		}
		return nil
	})
}
