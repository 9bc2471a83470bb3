package proxy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/prefix"
)

const (
	streamFrom = 128 << 10 // bytes of an argument from which on a command is passed on piecewise
	streamRead = 128 << 10 // bytes read at a time of such a command
	streamTick = 5 * time.Millisecond

	streamPatience = 10 * time.Second // how long a switch waits for those that have begun
)

// stream passes a large command on while it comes, so that it is never held in
// memory as a whole. It does so for plain commands only, whose arguments nobody
// needs to look at, and never while a switch is near: a command that has begun is
// inside the gate. It reports whether a command was passed on.
func (s *session) stream() (bool, error) {
	head, ok := s.in.Big(streamFrom)
	if !ok || s.multi || s.srv.whole.Load() || s.mayRead() || s.srv.cfg.Refused != nil { // it may have to be said again
		return false, nil
	}
	sp := s.srv.rowOf(head[0])
	if sp.verb != plain && sp.verb != vNoData {
		return false, nil
	}
	s.srv.streaming.Add(1)
	defer s.srv.streaming.Add(-1)
	if s.srv.whole.Load() {
		return false, nil
	}
	s.streams.Store(true)
	defer func() { s.streams.Store(false); s.starved.Store(0) }()
	s.pinnedAt = time.Now()
	s.cur, s.curSpec, s.curArgs = sp.call(s.readAt, len(head)+1, 0), sp, head
	if err := s.enter(); err != nil {
		return false, err
	}
	defer s.leave()
	if s.mayRead() { // it has another connection now
		return false, nil
	}
	if err := s.due(); err != nil {
		return false, err
	}
	begins, skip, ok := s.streamsBehind(sp, head)
	if !ok {
		return false, nil
	}
	s.srv.commands.Add(1)
	text := s.barred(sp)
	if text == "" {
		if sp.mayTie(head[0]) {
			s.keep()
		}
		if err := s.pushPlain(nil); err != nil {
			return false, err
		}
	}
	if err := s.flushUp(); err != nil {
		return false, err
	}
	for size := 0; ; {
		piece, done, bad := s.in.Stream()
		size += len(piece)
		if n := min(skip, len(piece)); n > 0 {
			if piece, skip = piece[n:], skip-n; skip == 0 {
				piece = append(begins, piece...)
			}
		}
		if text == "" && len(piece) > 0 {
			s.mu.Lock()
			s.fifo.calls.late(s.readAt, s.srv.clock(), size)
			if s.fifo.n == 1 { // the server has nothing to answer before the last piece
				s.heard = time.Now()
			}
			s.mu.Unlock()
			if err := s.write(piece); err != nil {
				return false, err
			}
		}
		switch {
		case bad != nil && text != "":
			return false, errClosing
		case bad != nil: // the server has the same bytes, and says the same of them
			_ = s.awaitEmpty()
			return false, errClosing
		case done:
			s.pinnedAt = time.Now()
			if text != "" {
				return true, s.refuse(text)
			}
			return true, nil
		case s.eof: // what is not whole never runs
			return false, errClientGone
		case s.srv.killed.Err() != nil:
			return false, errStopping
		case s.isDown():
			return false, errUpstreamGone
		}
		s.in.Reserve(streamRead)
		if s.starved.Load() == 0 {
			s.starved.Store(s.srv.clock())
		}
		got, err := s.readOnce()
		if err != nil {
			return false, err
		}
		if got {
			s.mu.Lock()
			if s.fifo.n == 1 { // from here on it is not the client who keeps the server waiting
				s.heard = time.Now()
			}
			s.mu.Unlock()
			s.starved.Store(0)
		}
	}
}

// streamsBehind returns how a large command begins where keys have a prefix, and how many
// of its bytes that replaces. ok is false where its first words do not tell all of its
// keys: it must come whole then, as one whose reply names keys.
func (s *session) streamsBehind(sp *spec, head [][]byte) (begins []byte, skip int, ok bool) {
	if !s.prefixed {
		return nil, 0, true
	}
	with := prefixOf(s.route, s.database())
	if with == "" {
		return nil, 0, true
	}
	if sp.apart(head) || sp.form.Request != prefix.Keys {
		return nil, 0, false
	}
	return s.rewriter.Head(nil, sp.command, head, s.in.Words(), with)
}

// Settle waits until no command is passed on piecewise any more. Prepare comes
// before it, also one that has failed. A client that has sent nothing more of its value for
// streamPatience before it is closed; the error names those that are waited for in vain.
func (s *Server) Settle(ctx context.Context) error {
	patience := s.cfg.streamPatience
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not whole within %v", patience))
	defer cancel()
	tick := time.NewTicker(streamTick)
	defer tick.Stop()
	// Only at the beginning: who pauses while this waits is named first, and closed by the
	// next attempt.
	if s.streaming.Load() > 0 {
		s.closeStarved(patience)
	}
	for {
		n := s.streaming.Load()
		if n == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d clients that are sending large values%s: %w", n, s.whoStreams(), context.Cause(ctx))
		}
	}
}

// closeStarved closes the clients that have begun with a large value and sent nothing more
// of it for so long: what is not whole never runs.
func (s *Server) closeStarved(patience time.Duration) {
	for _, sess := range s.snapshotSessions() {
		if since := sess.starvedFor(); since >= patience {
			s.log.Warn("closing a client that has begun to send a large value and does not go on: a switch waits for it",
				"client", sess.peer(), "for", since.Round(time.Millisecond).String())
			sess.close()
		}
	}
}

// starvedFor is for how long the client has sent nothing of the value that it is sending.
func (s *session) starvedFor() time.Duration {
	since := s.starved.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(s.srv.clock() - since)
}

// whoStreams names the clients that are sending large values, or the first of them.
func (s *Server) whoStreams() string {
	var names []string
	for _, sess := range s.snapshotSessions() {
		if !sess.streams.Load() {
			continue
		}
		if len(names) == maxReported {
			names = append(names, "and others")
			break
		}
		name := sess.peer()
		if since := sess.starvedFor(); since >= time.Second {
			name += ", which has sent nothing for " + since.Round(time.Second).String()
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, "; ") + ")"
}
