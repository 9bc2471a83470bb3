package proxy

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A client may wait at the gate for long: a switch whose servers are away, or a process that
// was stopped in the middle of one. It gives up, connects again, perhaps to another sidecar,
// and writes something newer. What it had sent before must not come behind that. Nobody knows
// of an outcome, so not to send it is as right as to have sent it at once.
//
// So it is where it waits behind the gate, for the other server to take its connection.
//
// A client that has closed its end only, and waits for its replies, cannot be told from one
// that has gone. In a switch as they are, it is served.

// lateAfter is how long a client may have waited for its hanging up to be no
// matter.
const lateAfter = time.Second

// waitedInVain reports whether a client that has waited for so long is not there any more.
func (s *Server) waitedInVain(waited time.Duration, hungUp func() bool) bool {
	return waited > s.cfg.lateAfter && hungUp()
}

// isHeld notes that what the guest has sent is held: at the gate, because the server is being
// connected, or because a fence has refused it.
func (g *guest) isHeld(now int64) {
	if g.heldFrom == 0 {
		g.heldFrom = now
	}
}

// waitedInVain reports it of a guest that was held. The loop's own time is that of the round's
// begin, and the process may have been stopped since.
func (l *loop) waitedInVain(g *guest) bool {
	return !g.gone && g.heldFrom != 0 &&
		l.srv.waitedInVain(time.Duration(l.srv.clock()-g.heldFrom), func() bool { return polledAt(g.fd, unix.POLLRDHUP) })
}

// admitted asks whether a connection that is set up may be used.
func (s *Server) admitted(ctx context.Context, l *link) error {
	ask := s.cfg.Upstreams[l.side].Admit
	if ask == nil {
		return nil
	}
	if err := ask(ctx); err != nil {
		return fmt.Errorf("connecting to the %s: %w", l.side, err)
	}
	return nil
}
