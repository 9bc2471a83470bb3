package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

const readSize = 16 << 10

// link is one upstream connection of one session. While it is being set up it is
// used synchronously by whoever does so; from start on its own goroutine reads it
// and the session's writes to it.
type link struct {
	srv   *Server
	conn  net.Conn
	side  router.Side
	route router.Route
	local string // our address on it

	rest       []byte       // read, not consumed by the setup
	unselected bool         // the server wants AUTH before it takes the SELECT and the like
	open       bool         // the server is known to want no AUTH here
	busy       *setupError  // the server runs a script, and has not taken the SELECT and the like for that; nil when it has
	told       string       // what the setup said; known of those that wait for a switch
	depth      depth        // … and how much of the client's state that was
	older      bool         // the server does not know HELLO, and has not been asked otherwise for the connection's id
	denied     []line       // … what of it was not permitted: a fence may be in the way for now
	heard      bool         // what comes unasked from here on is the client's
	id         int64        // at the server, where it was asked for; 0 otherwise
	listed     atomic.Int64 // the id by which a Nameless server lists it; 0 where it is not known, and elsewhere
	empties    empties

	done chan struct{} // closed when the reader has ended; nil before start

	// How the reader ended, to be looked at after done.
	idle    bool // by a deadline, so that another may go on
	between bool // between two elements

	key   string // of the pool, "" where it cannot be pooled
	since time.Time

	givenUp bool // nothing more is said on it, see giveUpOn; by the session's lock

	severed atomic.Bool // the server at the other end is not the side's any more
}

// reacher is reach or reachDamped.
type reacher func(ctx context.Context, route router.Route, setup func(*link) error) (*link, error)

// reach dials a side and has the connection set up.
func (s *Server) reach(ctx context.Context, route router.Route, setup func(*link) error) (*link, error) {
	l, err := s.dial(ctx, route)
	if err != nil {
		return nil, err
	}
	return l.setUp(setup)
}

// setUp returns l as setup leaves it. With an error it is closed.
func (l *link) setUp(setup func(*link) error) (*link, error) {
	if err := setup(l); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// dial connects to a side. The error names the side and never a secret.
func (s *Server) dial(ctx context.Context, route router.Route) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	cuts := s.cuts(route.Side)
	conn, err := s.cfg.Upstreams[route.Side].Dial(ctx)
	if err != nil {
		s.failed[route.Side].Add(1)
		return nil, fmt.Errorf("connecting to the %s: %w", route.Side, err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true)
	}
	keepAlive(conn)
	l := &link{srv: s, conn: conn, side: route.Side, route: route, local: conn.LocalAddr().String()}
	s.addLink(l)
	if s.cuts(route.Side) != cuts { // or else it would have been closed by the last one
		l.close()
		return nil, fmt.Errorf("connecting to the %s: %w", route.Side, errSevered)
	}
	return l, nil
}

func (l *link) close() {
	_ = l.conn.Close()
	l.srv.dropLink(l)
}

// setupError says which line of a setup failed and what the server said.
type setupError struct {
	side   router.Side
	what   string
	answer string
}

func (e *setupError) Error() string {
	return fmt.Sprintf("%s on the %s: %s", e.what, e.side, e.answer)
}

// run says lines to the server, in one write where it can, and checks the answers. What comes
// unasked before a barrier is discarded, what comes after it is kept for the reader.
func (l *link) run(ctx context.Context, lines []line) error {
	if len(lines) == 0 {
		return nil
	}
	if n := slices.IndexFunc(lines[1:], func(ln line) bool { return ln.after }) + 1; n > 0 {
		if err := l.run(ctx, lines[:n]); err != nil {
			return err
		}
		return l.run(ctx, lines[n:])
	}
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = l.conn.SetDeadline(time.Now().Add(l.srv.cfg.DialTimeout))
	var wire []byte
	for _, ln := range lines {
		wire = append(wire, ln.wire...)
	}
	// A long transaction may be answered before all of it is written.
	wrote := make(chan error, 1)
	go func() {
		_, err := l.conn.Write(wire)
		wrote <- err
	}()
	err := l.answers(lines)
	if err != nil {
		_ = l.conn.SetDeadline(time.Unix(1, 0))
	}
	if werr := <-wrote; err == nil && werr != nil {
		err = werr
	}
	if err != nil {
		return err
	}
	if !stop() {
		return context.Cause(ctx)
	}
	if err := l.conn.SetDeadline(time.Time{}); err != nil || !l.older || slices.ContainsFunc(lines, func(ln line) bool { return ln.what == "MULTI" }) {
		return err // in a transaction it would be queued
	}
	l.older = false
	return l.run(ctx, []line{asksOlder()})
}

func (l *link) answers(lines []line) error {
	var kept []byte
	for _, ln := range lines {
		for n := max(1, ln.replies); n > 0; {
			el, err := l.element()
			if err != nil {
				return fmt.Errorf("%s on the %s: %w", ln.what, l.route.Side, err)
			}
			if isMessage(el, ln.replies > 0) {
				if l.heard {
					kept = append(kept, el...)
				}
				continue
			}
			n--
			l.heard = l.heard || ln.barrier
			if resp.IsError(el) {
				if err := l.refused(ln, resp.ErrorText(el)); err != nil {
					return err
				}
				break
			}
			if ln.said != nil {
				*ln.said = true
			}
			switch {
			case ln.id:
				l.id, _ = idIn(el)
			case ln.lists:
				l.isListed(el)
			}
		}
	}
	l.rest = append(kept, l.rest...)
	return nil
}

func (l *link) refused(ln line, text string) error {
	switch {
	case ln.lists && ln.what == asksListed && isUnknownCommand(text):
		l.older = true
		return nil
	case ln.noAuth && strings.HasPrefix(text, "NOAUTH"):
		l.unselected = true
		return nil
	case ln.later && strings.HasPrefix(text, "BUSY "):
		l.busy = &setupError{side: l.route.Side, what: ln.what, answer: text}
		return nil
	case ln.lenient && ln.said == nil && strings.HasPrefix(text, "NOPERM"):
		l.denied = append(l.denied, ln)
		return nil
	case (ln.lenient || ln.queued || ln.said != nil && *ln.said) && !isGreeting(text):
		return nil
	}
	return &setupError{side: l.route.Side, what: ln.what, answer: text}
}

// isMessage tells what a server says unasked from an answer.
func isMessage(el []byte, confirms bool) bool {
	typ, n, rest, ok := resp.Header(el)
	if !ok || n < 1 || typ != '>' && typ != '*' {
		return false
	}
	kind, _, ok := resp.Text(rest)
	if !ok {
		return typ == '>'
	}
	if typ == '*' {
		return isDelivery(kind)
	}
	return !confirms || !isConfirmation(kind)
}

// element reads one whole reply.
func (l *link) element() ([]byte, error) {
	var f resp.Framer
	at := 0
	for {
		n, done, err := f.Feed(l.rest[at:])
		if err != nil {
			return nil, err
		}
		at += n
		if done {
			el := l.rest[:at:at]
			l.rest = l.rest[at:]
			return el, nil
		}
		buf := make([]byte, readSize)
		k, err := l.conn.Read(buf)
		l.rest = append(l.rest, buf[:k]...)
		if err != nil && k == 0 {
			return nil, err
		}
	}
}

func isDelivery(kind []byte) bool {
	switch string(kind) {
	case "message", "pmessage", "smessage":
		return true
	}
	return false
}

func isConfirmation(kind []byte) bool {
	switch string(kind) {
	case "subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe":
		return true
	}
	return false
}

// clientError is the line a client gets before its connection is closed.
func clientError(err error) []byte {
	var refused *setupError
	if errors.As(err, &refused) {
		code := "ERR"
		if strings.HasPrefix(refused.answer, "NOAUTH") || strings.HasPrefix(refused.answer, "WRONGPASS") || strings.HasPrefix(refused.answer, "NOPERM") {
			code, _, _ = strings.Cut(refused.answer, " ")
		}
		text := strings.NewReplacer("\r", " ", "\n", " ").Replace(refused.Error())
		return []byte("-" + code + " Crossfade: this connection cannot be continued: " + text + "\r\n")
	}
	return nil
}
