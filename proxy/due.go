package proxy

import "github.com/crossfade/crossfade/internal/resp"

// What is due before a command is forwarded.

// empties says what a server makes of an empty command.
type empties byte

const (
	unasked empties = iota
	count           // it is the next one after what came before it
	dontCount
)

// due does it for a command that has been read. It may read the client, so what was read
// is to be copied before where mayRead says so.
func (s *session) due() error {
	if s.in.Blank() {
		s.in.Mind()
		if err := s.blank(); err != nil {
			return err
		}
	}
	if s.link.busy != nil {
		return s.catchUp()
	}
	return nil
}

// mayRead reports whether due is going to wait for the server.
func (s *session) mayRead() bool {
	return s.link.busy != nil || s.in.Blank() && s.link.empties == unasked && s.noticesEmpty()
}

// noticesEmpty reports whether it may make a difference to the client that a command is empty.
func (s *session) noticesEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.fifo.empty() || s.skip || s.st.caching != nil
}

// blank follows an empty command, in its turn. Servers answer nothing to it, but to most
// it is the command whose reply was to be skipped, or the one that CLIENT CACHING was
// about. To Redis since 8.0 it is nothing.
func (s *session) blank() error {
	if !s.noticesEmpty() {
		return nil
	}
	if s.link.empties == unasked && !s.multi {
		replies, err := s.ask(words("HELLO"))
		if err != nil {
			return err
		}
		s.link.empties = count
		if p := resp.ProgramOf(replies[0]); p.Name == "redis" && p.Major >= 8 {
			s.link.empties = dontCount
			return s.cacheAfterAll()
		}
	}
	if s.link.empties == dontCount {
		return nil
	}
	s.mu.Lock()
	if s.fifo.empty() {
		s.advance()
	} else {
		s.fifo.push(&item{spec: ownSpec, local: true})
		s.pushed = true
	}
	s.mu.Unlock()
	return s.send([]byte("*0\r\n"))
}

// cacheAfterAll says a CLIENT CACHING again that a question of ours has used up.
func (s *session) cacheAfterAll() error {
	s.mu.Lock()
	caching := s.st.caching
	s.mu.Unlock()
	if caching == nil {
		return nil
	}
	_, err := s.ask(caching)
	return err
}

// catchUp says what the server was too busy for, which it may be still.
func (s *session) catchUp() error {
	s.mu.Lock()
	lines := s.st.says(s.route, true)
	s.mu.Unlock()
	s.link.busy = nil
	return s.tell(lines)
}
