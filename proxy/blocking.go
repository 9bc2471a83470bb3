package proxy

import (
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

// blocking forwards a command that may wait in the server, and nothing after it
// until its answer is there, so that it can be said again elsewhere in order.
func (s *session) blocking(sp *spec, args [][]byte, at int, d time.Duration, forever bool) error {
	var err error
	switch sp.name {
	case "xread":
		err = s.lastIDs(args)
	case "wait", "waitaof":
		err = s.claimWrites()
	}
	if err != nil {
		return err
	}
	deadline := time.Now().Add(d)
	for {
		if err := s.askID(); err != nil {
			return err
		}
		it := &item{spec: sp, args: args, mode: modeLine, gate: true, wake: true, block: &blocked{at: at, forever: forever, deadline: deadline}}
		s.describe(it)
		if err := s.push(it, wireOf(args...)); err != nil {
			return err
		}
		if err := s.await(it); err != nil {
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
		// A client that is gone by now must not take an element with it.
		if hungUp(s.conn) {
			return errClientGone
		}
		if text := s.barred(sp); text != "" {
			return s.refuse(text)
		}
		if !forever {
			args[at] = sp.block.format(time.Until(deadline))
		}
	}
}

// claimWrites has a WAIT wait for what the client has written on shared
// connections too. Servers since Redis 7.2 have a connection wait for the last of
// its own commands that was replicated, which this one becomes: a message that
// nobody hears, because there are no patterns of shard channels. A client that may
// not send it stays here from now on, so that its next writes are this connection's.
func (s *session) claimWrites() error {
	if s.home == nil || !s.srv.cfg.Shared {
		return nil
	}
	replies, err := s.ask(words("SPUBLISH", "crossfade:wait", ""))
	if err != nil {
		return err
	}
	if resp.IsError(replies[0]) {
		s.keep()
	}
	return nil
}

// askID sends CLIENT ID ahead of the first blocking command of a connection; the
// answer is for Hold.
func (s *session) askID() error {
	s.mu.Lock()
	known := s.upID != 0
	s.mu.Unlock()
	if known {
		return nil
	}
	return s.push(&item{spec: clientIDSpec, mode: modeWhole, role: ours}, words("CLIENT", "ID"))
}

// lastIDs replaces each $ of an XREAD by the stream's last id of this moment, so
// that nothing is missed when the command is said again later. Where the server
// does not tell, $ stays.
func (s *session) lastIDs(args [][]byte) error {
	at := streamsAt(args)
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
			wires = append(wires, wireOf([]byte("XREVRANGE"), keys[i], []byte("+"), []byte("-"), []byte("COUNT"), []byte("1")))
			which = append(which, i)
		}
	}
	if wires == nil {
		return nil
	}
	replies, err := s.ask(wires...)
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
