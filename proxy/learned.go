package proxy

import (
	"bytes"

	"github.com/crossfade/crossfade/internal/keyspec"
)

// Learn takes what a server says of its commands: those that are not in the table,
// modules' above all, are known from now on as far as the server knows where their keys
// are. What they may have changed is told in any case, since a module need not notify of
// what it does. What was learned before holds, for the other server.
func (s *Server) Learn(commands []keyspec.Command) {
	s.learning.Lock()
	defer s.learning.Unlock()
	rows := make(map[string]*spec)
	if before := s.learned.Load(); before != nil {
		for name, row := range *before {
			rows[name] = row
		}
	}
	for i := range commands {
		c := &commands[i]
		if table[c.Name] != nil || !c.Exact() {
			continue
		}
		switch row := (&spec{name: c.Name, command: c, unclear: !anyKeys(c)}); {
		case c.Is("readonly"):
			row.reads = true
			rows[c.Name] = row
		case c.Is("write") && c.Changes():
			row.verb, row.silent, row.writes = vSilent, true, true
			rows[c.Name] = row
		}
	}
	s.learned.Store(&rows)
}

// rowOf is lookup that also finds what was learned.
func (s *Server) rowOf(word []byte) *spec {
	sp := lookup(word)
	if sp != plainSpec {
		return sp
	}
	if rows := s.learned.Load(); rows != nil {
		if row := (*rows)[string(bytes.ToLower(word))]; row != nil {
			return row
		}
	}
	return sp
}
