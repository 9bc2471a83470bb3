package proxy

import (
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

// blocking forwards a command that may wait in the server, and nothing after it
// until its answer is there, so that it can be said again elsewhere in order.
func (s *session) blocking(sp *spec, args [][]byte, at int, d time.Duration, forever bool) error {
	if sp.name == "xread" {
		if err := s.lastIDs(args); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(d)
	for {
		if sp.name == "wait" || sp.name == "waitaof" {
			if text, err := s.claimWrites(); err != nil {
				return err
			} else if text != "" {
				return s.refuse(text)
			}
		}
		if err := s.askID(); err != nil {
			return err
		}
		it := &item{spec: sp, args: args, mode: modeLine, gate: true, wake: true, block: &blocked{at: at, forever: forever, deadline: deadline}}
		s.describe(it)
		s.describeWrites(it, args)
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
