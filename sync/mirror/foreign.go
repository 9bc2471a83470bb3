package mirror

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
)

// Some writes cause no notification. The proxy reports those of its own
// clients; a writer that bypasses the proxy is found by counting: when the
// server has run more of them than the proxy forwarded, somebody else did.
// (Server sources: t_stream.c, hyperloglog.c, db.c call no notifyKeyspaceEvent
// there, nor does the module vectorset of Redis 8.) The name "function" stands for all FUNCTION subcommands that change.
//
// Commands that scripts run inside count on the server, and nobody else counts them; the
// keys that a script declares are marked by the proxy. So such a surplus need not be another's.
// Nobody has to know: see touches.
var silentCommands = map[string]string{
	"xreadgroup": "xreadgroup", "xack": "xack", "xclaim": "xclaim", "xautoclaim": "xautoclaim",
	"xackdel": "xackdel", "xdelex": "xdelex", "pfcount": "pfcount", "vadd": "vadd", "vrem": "vrem", "vsetattr": "vsetattr",
	"flushdb": "flushdb", "flushall": "flushall", "swapdb": "swapdb",
	"function|load": "function", "function|delete": "function", "function|flush": "function", "function|restore": "function",
}

// silentToTracking are those that notifications tell of, and CLIENT TRACKING does not: they
// call no signalModifiedKey (t_stream.c). The proxy counts XGROUP HELP too.
var silentToTracking = map[string]string{
	"xgroup": "xgroup", "xgroup|create": "xgroup", "xgroup|createconsumer": "xgroup", "xgroup|delconsumer": "xgroup",
	"xgroup|destroy": "xgroup", "xgroup|setid": "xgroup", "xgroup|help": "xgroup", "xsetid": "xsetid",
}

// touches says of which type the keys are that silent commands may change. Where more of
// them ran than went through the proxy, all those keys are copied again: see quietKeys. "" is
// for what changes nothing that a client could see, the number that PFCOUNT keeps. Others
// change whole databases, or what is no key, and mean a gap.
var touches = map[string]string{
	"xreadgroup": "stream", "xack": "stream", "xclaim": "stream", "xautoclaim": "stream", "xackdel": "stream",
	"xdelex": "stream", "xgroup": "stream", "xsetid": "stream",
	"vadd": "vectorset", "vrem": "vectorset", "vsetattr": "vectorset",
	"pfcount": "",
}

// everything stands for all commands, silent or not, of which a server never has run fewer than
// before: one of which fewer are counted has begun to count anew, though the few silent ones
// may be as many again by then.
const everything = "*"

// foreign remembers, per command, by how much the server's count may exceed the
// proxy's. Commands in flight make the proxy's count a range: finished ≤ run ≤
// forwarded, so what is known of the excess is a range as well.
type foreign struct {
	mu      sync.Mutex
	valid   bool
	highest map[string]int64 // upper bound of the excess that is known to be old
	lowest  map[string]int64 // lower bound of it
	calls   map[string]int64 // the server's counts when it was asked last
	rounds  int              // how often answers of the server were taken in
}

// uncertain reports whether a stream may prove to have been changed by others once nothing is
// in flight: clients were waiting in such commands when the counting began.
func (f *foreign) uncertain() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, high := range f.highest {
		if touches[name] == "stream" && high > f.lowest[name] {
			return true
		}
	}
	return false
}

// foreignBaseline takes the present excess as known.
func (m *Mirror) foreignBaseline(ctx context.Context) error {
	if m.cfg.Silent == nil {
		return nil
	}
	_, finished := m.cfg.Silent()
	calls, err := m.silentCalls(ctx)
	if err != nil {
		return err
	}
	forwarded, _ := m.cfg.Silent()
	m.foreign.mu.Lock()
	defer m.foreign.mu.Unlock()
	m.foreign.valid = true
	m.foreign.rounds++
	m.foreign.calls, m.foreign.highest, m.foreign.lowest = calls, make(map[string]int64), make(map[string]int64)
	for name, n := range calls {
		m.foreign.highest[name], m.foreign.lowest[name] = n-finished[name], n-forwarded[name]
	}
	return nil
}

// foreignSurplus returns a command of which more ran than went through the proxy and that
// means a gap, or "". What else others have changed is owed from then on; with last, what
// they may have changed. In a moment when nothing is in flight it is exact. A server that has
// begun to count anew (CONFIG RESETSTAT, another server in its place) may have run any.
func (m *Mirror) foreignSurplus(ctx context.Context, last bool) (string, error) {
	if m.cfg.Silent == nil {
		return "", nil
	}
	f := &m.foreign
	for {
		f.mu.Lock()
		rounds := f.rounds
		f.mu.Unlock()
		_, finished := m.cfg.Silent() // before the server was asked: never more than it has run
		calls, err := m.silentCalls(ctx)
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
		what := m.compareCalls(calls, forwarded, finished, last)
		f.mu.Unlock()
		return what, nil
	}
}

// compareCalls is foreignSurplus with the numbers of both.
func (m *Mirror) compareCalls(calls, forwarded, finished map[string]int64, last bool) (what string) { // with foreign.mu held
	f := &m.foreign
	if !f.valid {
		return ""
	}
	for name, n := range calls {
		if n < f.calls[name] {
			return "silent commands, as far as can be known (the server has begun to count anew)"
		}
	}
	f.calls = calls
	var owed []string
	for name, n := range calls {
		if name == everything {
			continue
		}
		more := n - forwarded[name] - f.highest[name]
		kind, single := touches[name]
		if !single {
			if more > 0 {
				what = fmt.Sprintf("%s (%d more than went through the proxy)", name, more)
			}
			continue // and it is not known yet
		}
		// What is in flight, and what was when the counting began, may hide some of others.
		hidden := n-finished[name] > f.lowest[name] && (last || forwarded[name] == finished[name])
		if more <= 0 && !hidden {
			continue
		}
		f.highest[name] = max(f.highest[name], n-forwarded[name])
		f.lowest[name] = max(f.lowest[name], n-forwarded[name])
		if kind != "" {
			owed = append(owed, kind)
		}
	}
	if m.debts.add(owed...) {
		m.log.Info("scripts, or clients past the proxy, run commands that no notification reports: what they may have changed is copied again each time",
			"from", m.cfg.From.String(), "types", owed)
	}
	return what
}

// CheckForeign is for the moment of the cutover, when nothing is in flight: it
// returns an error when a writer that bypasses the proxy changed something that
// no notification reports, and that is not found by looking at some keys again.
func (m *Mirror) CheckForeign(ctx context.Context) error {
	what, err := m.foreignSurplus(ctx, true)
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
	if what, err := m.foreignSurplus(ctx, false); err == nil && what != "" {
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

// silentCalls reads how often From ran each silent command.
func (m *Mirror) silentCalls(ctx context.Context) (map[string]int64, error) {
	text, err := m.source().pool.DB(m.home[0]).Info(ctx, "commandstats").Result()
	if err != nil {
		return nil, fmt.Errorf("reading INFO commandstats of %s: %w", m.cfg.From, err)
	}
	families := maps.Clone(silentCommands)
	if m.isTracking() {
		maps.Copy(families, silentToTracking)
	}
	calls := make(map[string]int64)
	sc := bufio.NewScanner(strings.NewReader(text))
	for sc.Scan() {
		rest, ok := strings.CutPrefix(sc.Text(), "cmdstat_")
		if !ok {
			continue
		}
		name, stats, _ := strings.Cut(rest, ":")
		first, _, _ := strings.Cut(stats, ",")
		count, _ := strings.CutPrefix(first, "calls=")
		n, _ := strconv.ParseInt(count, 10, 64)
		calls[everything] += n
		if family, silent := families[strings.ToLower(name)]; silent { // modules may use capitals
			calls[family] += n
		}
	}
	for _, family := range families {
		calls[family] += 0
	}
	return calls, nil
}
