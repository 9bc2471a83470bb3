package proxy

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/router"
)

// Stats is a moment of the server's life. Counts are since its start.
type Stats struct {
	Clients   int   // connected now
	Accepted  int64 // connections accepted
	Commands  int64 // commands of clients
	BytesIn   int64 // from clients
	BytesOut  int64 // to clients
	Upstreams int   // connections to both sides, warm ones included
	Inside    int64 // commands inside the gate
}

// Stats returns the counts of this moment.
func (s *Server) Stats() Stats {
	st := Stats{Accepted: s.accepted.Load(), Commands: s.commands.Load(), BytesIn: s.received.Load(), BytesOut: s.sent.Load(), Inside: s.gate.Inside()}
	for _, sess := range s.snapshotSessions() {
		st.BytesOut += sess.out.bytes()
	}
	s.mu.Lock()
	st.Upstreams, st.Clients = len(s.links), s.clients
	s.mu.Unlock()
	return st
}

// Stalls says how long sessions with work had to wait in the last Hold, from
// when they wanted to enter the gate, or were unblocked, until they had sent.
type Stalls struct {
	Sessions      int
	P50, P99, Max time.Duration
}

// Stalls returns those of the last Hold … Release.
func (s *Server) Stalls() Stalls {
	s.mu.Lock()
	d := slices.Clone(s.stalls)
	s.mu.Unlock()
	if len(d) == 0 {
		return Stalls{}
	}
	slices.Sort(d)
	at := func(p int) time.Duration { return d[(len(d)-1)*p/100] }
	return Stalls{Sessions: len(d), P50: at(50), P99: at(99), Max: d[len(d)-1]}
}

func (s *Server) stalled(d time.Duration) {
	s.mu.Lock()
	s.stalls = append(s.stalls, d)
	s.mu.Unlock()
}

// Scripts returns the script bodies seen, the least recently used first.
func (s *Server) Scripts() []string { return s.scripts.all() }

// UpstreamAddrs returns the local addresses ("ip:port") of the connections to a side, to
// tell them from those of clients that bypass the proxy; to a Nameless one their ids
// ("id=17"), but for connections of clients that have yet to authenticate there.
func (s *Server) UpstreamAddrs(side router.Side) map[string]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]struct{}, len(s.links))
	for l := range s.links {
		if as := l.listedAs(); l.side == side && as != "" {
			out[as] = struct{}{}
		}
	}
	return out
}

// The commands whose calls are counted: none of them tells every feed, keyspace
// notifications and CLIENT TRACKING, what it did.
var countedCommands = []string{"xreadgroup", "xack", "xackdel", "xdelex", "xclaim", "xautoclaim", "xgroup", "xsetid", "pfcount", "vadd", "vrem", "vsetattr",
	"flushdb", "flushall", "swapdb", "function", "scripts"}

// counter counts one kind of silent command. pending are those of forwarded
// whose outcome is not known yet. Where it will never be known, they count as not run: one
// too many at the server is taken for another's and looked after, one too few would hide
// another's for ever.
type counter struct{ forwarded, pending atomic.Int64 }

func newCounters() map[string]*counter {
	m := make(map[string]*counter, len(countedCommands))
	for _, name := range countedCommands {
		m[name] = new(counter)
	}
	return m
}

// Silent returns, for each silent kind, between which bounds lies how many the
// server has run for us: those that have certainly run, and all that were
// forwarded less those it has refused without running, or that were lost with their
// connection. When nothing is in flight the two are equal. "scripts" counts EVAL, EVALSHA
// and FCALL, which may do anything; "function" those subcommands that change
// functions.
func (s *Server) Silent() (forwarded, finished map[string]int64) {
	forwarded = make(map[string]int64, len(s.counters))
	finished = make(map[string]int64, len(s.counters))
	for name, c := range s.counters {
		// In this order: what is forwarded and finishes in between changes neither bound.
		n := c.forwarded.Load()
		forwarded[name], finished[name] = n, n-c.pending.Load()
	}
	return forwarded, finished
}

// count raises the counter of a command that is about to be forwarded.
func (s *Server) count(it *item) {
	name := ""
	switch it.spec.verb {
	case vSilent, vFlushAll, vFlushDB, vSwapDB:
		if it.spec.row != 0 {
			name = it.spec.name
		}
	case vBlock:
		if it.spec.silent {
			name = it.spec.name
		}
	case vEval, vEvalSHA, vFcall:
		if !it.spec.reads {
			s.counters["scripts"].forwarded.Add(1)
		}
	case vFunction:
		if changesFunctions(it.args) {
			name = "function"
		}
	}
	if name != "" {
		s.counters[name].pending.Add(1)
		s.counters[name].forwarded.Add(1)
		it.counted = name
	}
}

// uncount lowers it again: the server has not run the command.
func (s *Server) uncount(it *item) {
	if it.counted != "" {
		s.counters[it.counted].forwarded.Add(-1)
		s.counters[it.counted].pending.Add(-1)
		it.counted = ""
	}
}

// ran notes that the server has run a counted command.
func (s *Server) ran(it *item) {
	if it.counted != "" {
		s.counters[it.counted].pending.Add(-1)
		it.counted = ""
	}
}
