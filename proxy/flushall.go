package proxy

import (
	"fmt"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/tidwall/redcon"
)

// flushAll empties the mapped databases, and no others, in one transaction.
func (s *session) flushAll(cmd redcon.Command) error {
	mode := []string{}
	switch {
	case len(cmd.Args) == 1:
	case len(cmd.Args) == 2 && (is(cmd.Args[1], "async") || is(cmd.Args[1], "sync")):
		mode = append(mode, string(cmd.Args[1]))
	default:
		s.local([]byte("-ERR syntax error\r\n"))
		return nil
	}
	if err := s.awaitEmpty(); err != nil {
		return err
	}
	s.mu.Lock()
	back, mapped := s.route.DB(s.st.db)
	watching := s.st.watch
	s.st.broken = s.st.broken || watching
	s.mu.Unlock()
	if targets := s.route.Map.Targets(); len(targets) == 1 {
		return s.flushOnly(targets[0], back, mapped, mode)
	}
	var wires [][]byte
	if watching { // a changed key must not keep our own EXEC from running
		wires = append(wires, words("UNWATCH"))
	}
	wires = append(wires, words("MULTI"))
	for _, db := range s.route.Map.Targets() {
		wires = append(wires, words("SELECT", fmt.Sprint(db)), words(append([]string{"FLUSHDB"}, mode...)...))
	}
	if !mapped {
		back = 0
	}
	wires = append(wires, words("SELECT", fmt.Sprint(back)), words("EXEC"))
	n := int64(s.route.Map.Len())
	counter := s.srv.counters["flushdb"]
	counter.pending.Add(n)
	counter.forwarded.Add(n)
	replies, err := s.ask(wires...)
	if err != nil { // it counts as not run, see counter
		counter.pending.Add(-n)
		counter.forwarded.Add(-n)
		s.srv.tell([]event{{kind: flushed, db: -1}})
		return err
	}
	reply := []byte("+OK\r\n")
	ran := resp.Elements(replies[len(replies)-1])
	for _, r := range append(replies, ran...) {
		if resp.IsError(r) {
			reply = r
			break
		}
	}
	counter.pending.Add(-n)
	if ran == nil {
		counter.forwarded.Add(-n)
	} else {
		s.srv.tell([]event{{kind: flushed, db: -1}})
	}
	s.local(reply)
	return nil
}

// flushOnly is flushAll where all mapped databases are one on the target. It needs no
// transaction, of which a Redis Cluster could not make it a part; and what is not where it
// should be is not flushed. What is watched the server itself takes for changed.
func (s *session) flushOnly(db, back int, mapped bool, mode []string) error {
	if !mapped {
		back = 0
	}
	if db != back {
		replies, err := s.ask(words("SELECT", fmt.Sprint(db)))
		if err != nil {
			return err
		}
		if resp.IsError(replies[0]) {
			s.local(replies[0])
			return nil
		}
	}
	counter := s.srv.counters["flushdb"]
	counter.pending.Add(1)
	counter.forwarded.Add(1)
	replies, err := s.ask(words(append([]string{"FLUSHDB"}, mode...)...))
	if err != nil { // it counts as not run, see counter
		counter.pending.Add(-1)
		counter.forwarded.Add(-1)
		s.srv.tell([]event{{kind: flushed, db: -1}})
		return err
	}
	counter.pending.Add(-1)
	if refused(resp.ErrorText(replies[0])) {
		counter.forwarded.Add(-1)
	} else {
		s.srv.tell([]event{{kind: flushed, db: -1}})
	}
	if db != back {
		there, err := s.ask(words("SELECT", fmt.Sprint(back)))
		if err != nil || resp.IsError(there[0]) {
			return errUpstreamGone // what comes next would go to another database
		}
	}
	s.local(replies[0])
	return nil
}
