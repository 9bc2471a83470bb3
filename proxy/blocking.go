package proxy

import (
	"errors"
	"time"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/resp"
)

var rangeSpec = lookup([]byte("xrevrange"))

// blocking forwards a command that may wait in the server, and nothing after it
// until its answer is there, so that it can be said again elsewhere in order.
func (s *session) blocking(sp *spec, args [][]byte, at int, d time.Duration, forever bool) error {
	if sp.name == "xread" {
		if err := s.lastIDs(args); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(d)
	turn := s.srv.turns.take(awaited(sp, args, s.database()))
	defer s.srv.turns.quit(turn)
	for again := false; ; again = true {
		epoch, held := s.route.Epoch, again || s.wasHeld || s.srv.turns.stands(turn)
		if err := s.awaitTurn(turn); err != nil {
			return err
		}
		// Who has gone while it was held, at the gate or in line, must not take an element with it.
		// What came before it is answered. Where it was not held, a server would see it first, and
		// the end of the stream behind it.
		if (held || s.route.Epoch != epoch) && hungUp(s.conn) {
			s.leave()
			_ = s.settleDown()
			return errClientGone
		}
		if again || s.route.Epoch != epoch { // it may be elsewhere than when it was looked at
			if text := s.barred(sp); text != "" {
				return s.refuse(text)
			}
			if !forever {
				args[at] = sp.block.format(time.Until(deadline))
			}
		}
		if sp.waits() {
			if text, err := s.claimWrites(sp.name); err != nil {
				return err
			} else if text != "" {
				return s.refuse(text)
			}
		}
		if err := s.askID(turn); err != nil {
			return err
		}
		wire, with := s.say(sp, args)
		it := &item{spec: sp, args: args, mode: modeLine, gate: true, wake: true, with: with, block: &blocked{at: at, forever: forever, deadline: deadline, turn: turn}}
		s.describe(it)
		s.describeWrites(it, args)
		if err := s.push(it, wire); err != nil {
			return err
		}
		if err := s.await(it); err != nil {
			if errors.Is(err, errClientGone) {
				s.stopWaiting(it)
			}
			if errors.Is(err, errClientGone) || errors.Is(err, errStopping) {
				s.passEnd(it)
			}
			return err
		}
		if !it.retry {
			return nil
		}
		if s.waitFrom.IsZero() {
			s.waitFrom = time.Now()
		}
		if err := s.enter(); err != nil {
			return err
		}
	}
}

// database is the one that the client is in.
func (s *session) database() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.db
}

// awaitTurn waits until those are in the server who came before for the same keys. When
// another switch begins meanwhile, it is waited for at the gate: one of them may be there.
func (s *session) awaitTurn(turn *turn) error {
	if s.srv.turns.stands(turn) { // what came before it does not wait for that
		if err := s.flushUp(); err != nil {
			return err
		}
		s.out.kick()
	}
	for s.srv.turns.stands(turn) && !s.srv.turns.await(turn, s.srv.gate.Shutting()) {
		s.leave()
		if err := s.enter(); err != nil {
			return err
		}
	}
	return nil
}

// askID sends CLIENT ID ahead of the first blocking command of a connection; the
// answer is for Hold. So it does for one that stands in line: both are written at once,
// and the server does one after the other, so that the answer says that it waits there.
func (s *session) askID(turn *turn) error {
	s.mu.Lock()
	known := s.upID != 0
	s.mu.Unlock()
	if known && !s.srv.turns.stands(turn) {
		return nil
	}
	return s.push(&item{spec: clientIDSpec, mode: modeWhole, role: ours, turn: turn}, words("CLIENT", "ID"))
}

// lastIDs replaces each $ of an XREAD by the stream's last id of this moment, so
// that nothing is missed when the command is said again later. Where the server
// does not tell, $ stays.
func (s *session) lastIDs(args [][]byte) error {
	at := keyspec.Streams(args)
	if at < 0 {
		return nil
	}
	rest := args[at+1:]
	if len(rest)%2 != 0 {
		return nil
	}
	keys, ids := rest[:len(rest)/2], rest[len(rest)/2:]
	var wires [][]byte
	var which []int
	for i, id := range ids {
		if string(id) == "$" {
			wire, _ := s.say(rangeSpec, [][]byte{[]byte("XREVRANGE"), keys[i], []byte("+"), []byte("-"), []byte("COUNT"), []byte("1")})
			wires = append(wires, wire)
			which = append(which, i)
		}
	}
	if wires == nil {
		return nil
	}
	replies, err := s.ask(wires...)
	if err == nil {
		err = s.cacheAfterAll()
	}
	if err != nil {
		return err
	}
	for k, reply := range replies {
		if resp.IsError(reply) {
			continue
		}
		id := []byte("0-0")
		if entries := resp.Elements(reply); len(entries) > 0 {
			text := []byte(nil)
			if parts := resp.Elements(entries[0]); len(parts) > 0 {
				text, _, _ = resp.Text(parts[0])
			}
			if text == nil {
				continue
			}
			id = text
		}
		ids[which[k]] = id
	}
	return nil
}
