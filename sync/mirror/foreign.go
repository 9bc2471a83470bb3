package mirror

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Some writes cause no notification. The proxy reports those of its own
// clients; a writer that bypasses the proxy is found by counting: when the
// server has run more of them than the proxy forwarded, somebody else did.
// (Server sources: t_stream.c, hyperloglog.c, db.c call no notifyKeyspaceEvent
// there, nor does the module vectorset of Redis 8.) The name "function" stands for all FUNCTION subcommands that change.
//
// What a script or a function runs inside counts on the server too. It is no gap while
// nobody is connected past the proxy, for then it went through it, and the proxy has marked
// the keys that were declared. Otherwise nobody can tell whose it was. See company.go.
var silentCommands = map[string]string{
	"xreadgroup": "xreadgroup", "xack": "xack", "xclaim": "xclaim", "xautoclaim": "xautoclaim",
	"xackdel": "xackdel", "pfcount": "pfcount", "vadd": "vadd", "vrem": "vrem", "vsetattr": "vsetattr",
	"flushdb": "flushdb", "flushall": "flushall", "swapdb": "swapdb",
	"function|load": "function", "function|delete": "function", "function|flush": "function", "function|restore": "function",
}

// foreign remembers, per command, by how much the server's count may exceed the
// proxy's. Commands in flight make the proxy's count a range: finished ≤ run ≤
// forwarded, so what is known of the excess is a range as well.
type foreign struct {
	mu      sync.Mutex
	valid   bool
	highest map[string]int64  // upper bound of the excess that is known to be old
	calls   map[string]int64  // the server's counts when it was asked last
	company company           // … and who was connected to it
	doubts  map[string]string // why an excess that shows now may be another's than a script's
	refused bool              // the server does not say who is connected
	scripts int64             // scripts forwarded at the baseline: they may run such commands inside
	rounds  int               // how often answers of the server were taken in
}

// foreignBaseline takes the present excess as known.
func (m *Mirror) foreignBaseline(ctx context.Context) error {
	if m.cfg.Silent == nil {
		return nil
	}
	_, finished := m.cfg.Silent()
	calls, now, err := m.look(ctx, finished["scripts"] > 0)
	if err != nil {
		return err
	}
	m.foreign.mu.Lock()
	defer m.foreign.mu.Unlock()
	m.foreign.valid = true
	m.foreign.rounds++
	m.foreign.calls, m.foreign.highest = calls, make(map[string]int64)
	m.foreign.company, m.foreign.doubts = now, make(map[string]string)
	for name, n := range calls {
		m.foreign.highest[name] = n - finished[name]
	}
	m.foreign.scripts = finished["scripts"]
	return nil
}

// foreignSurplus returns the first command of which more ran than went through
// the proxy, or "". In a moment when nothing is in flight it is exact. A server that has
// begun to count anew (CONFIG RESETSTAT, another server in its place) may have run any.
func (m *Mirror) foreignSurplus(ctx context.Context) (string, error) {
	if m.cfg.Silent == nil {
		return "", nil
	}
	f := &m.foreign
	for {
		f.mu.Lock()
		rounds := f.rounds
		f.mu.Unlock()
		begun, finished := m.cfg.Silent()
		calls, now, err := m.look(ctx, begun["scripts"] > 0)
		if err != nil {
			return "", err
		}
		forwarded, _ := m.cfg.Silent() // after the server was asked: never less than it has run
		f.mu.Lock()
		if f.rounds != rounds { // another answer, which may be newer, was taken in meanwhile
			f.mu.Unlock()
			continue
		}
		f.rounds++
		what := m.compareCalls(calls, forwarded, finished, now)
		f.mu.Unlock()
		return what, nil
	}
}

// compareCalls is foreignSurplus with the numbers of both, and who was connected.
func (m *Mirror) compareCalls(calls, forwarded, finished map[string]int64, now company) (what string) { // with foreign.mu held
	f := &m.foreign
	if !f.valid {
		return ""
	}
	for name, n := range calls {
		if n < f.calls[name] {
			return fmt.Sprintf("%s, as far as can be known (the server has begun to count anew)", name)
		}
	}
	doubt := alone(f.company, now)
	f.calls, f.company = calls, now
	scripted := forwarded["scripts"] > f.scripts
	for name, n := range calls {
		if doubt != "" {
			f.doubts[name] = doubt
		}
		excess := n - forwarded[name]
		switch more := excess - f.highest[name]; {
		case more > 0 && (!scripted || !scriptable(name)):
			what = fmt.Sprintf("%s (%d more than went through the proxy)", name, more)
		case more > 0 && f.doubts[name] != "":
			what = fmt.Sprintf("%s (%d more than went through the proxy; its scripts may have, but %s)", name, more, f.doubts[name])
		case more > 0:
			f.highest[name] = excess
			fallthrough
		default:
			if forwarded[name] == finished[name] { // nothing in flight hides a part of the excess
				delete(f.doubts, name)
			}
		}
	}
	return what
}

// scriptable reports whether a command changes single keys. Whole databases are another
// matter: nobody marks those where a script empties them.
func scriptable(command string) bool {
	switch command {
	case "flushdb", "flushall", "swapdb", "function":
		return false
	}
	return true
}

// CheckForeign is for the moment of the cutover, when nothing is in flight: it
// returns an error when a writer that bypasses the proxy changed something that
// no notification reports.
func (m *Mirror) CheckForeign(ctx context.Context) error {
	what, err := m.foreignSurplus(ctx)
	if err != nil {
		return err
	}
	if what != "" {
		m.foreignSeen(what)
		return fmt.Errorf("a client that bypasses the proxy ran %s on %s, which no notification reports", what, m.cfg.From)
	}
	return nil
}

func (m *Mirror) checkForeign() {
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	if what, err := m.foreignSurplus(ctx); err == nil && what != "" {
		m.foreignSeen(what)
	}
}

// foreignSeen makes an invisible foreign write a gap.
func (m *Mirror) foreignSeen(what string) {
	m.noteGap(fmt.Sprintf("a client that bypasses the proxy ran %s on %s, which no notification reports", what, m.cfg.From))
	m.countAnew()
	for _, l := range m.lanes { // after the baseline: what comes in between is counted again
		l.requestScan()
	}
}

// countAnew takes a new baseline before a scan, which makes up for what came before:
// From may be another server by now.
func (m *Mirror) countAnew() {
	m.foreign.mu.Lock()
	counting := m.foreign.valid
	m.foreign.mu.Unlock()
	if !counting {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	if err := m.foreignBaseline(ctx); err != nil && m.ctx.Err() == nil {
		m.errs.add("commandstats", err)
	}
}

// silentCalls reads in INFO commandstats how often From ran each silent command.
func (m *Mirror) silentCalls(info *redis.StringCmd) (map[string]int64, error) {
	text, err := info.Result()
	if err != nil {
		return nil, fmt.Errorf("reading INFO commandstats of %s: %w", m.cfg.From, err)
	}
	calls := make(map[string]int64)
	sc := bufio.NewScanner(strings.NewReader(text))
	for sc.Scan() {
		rest, ok := strings.CutPrefix(sc.Text(), "cmdstat_")
		if !ok {
			continue
		}
		name, stats, _ := strings.Cut(rest, ":")
		family, silent := silentCommands[strings.ToLower(name)] // modules may use capitals
		if !silent {
			continue
		}
		for field := range strings.SplitSeq(stats, ",") {
			if v, ok := strings.CutPrefix(field, "calls="); ok {
				n, _ := strconv.ParseInt(v, 10, 64)
				calls[family] += n
			}
		}
	}
	for _, family := range silentCommands {
		calls[family] += 0
	}
	return calls, nil
}
