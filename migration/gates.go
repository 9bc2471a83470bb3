package migration

import (
	"fmt"
	"time"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// Gate is one condition of the next switch, as far as it can be told without asking a
// server: the switch itself looks at more, see Check.
type Gate struct {
	Name string   `json:"name"`
	What string   `json:"what"` // what it asks for, in words
	OK   bool     `json:"ok"`
	Why  []string `json:"why"` // the reasons when it is shut
}

// Limits are what a switch is bound by, as configured.
type Limits struct {
	MaxStallMS float64 `json:"max_stall_ms"` // how long clients may wait
	MaxLagMS   float64 `json:"max_lag_ms"`   // how far the copy may be behind
}

func (m *Migration) limitsOf() Limits {
	return Limits{MaxStallMS: ms(m.cfg.Cutover.MaxStall), MaxLagMS: ms(m.cfg.Cutover.MaxLag)}
}

// gate is open when there is no reason against it.
func gate(name, what string, why ...string) Gate {
	return Gate{Name: name, What: what, OK: len(why) == 0, Why: append([]string{}, why...)}
}

// shut returns the reasons of the gates that are shut, in order.
func shut(gates []Gate) (why []string) {
	for _, g := range gates {
		why = append(why, g.Why...)
	}
	return why
}

// gates derives from the record and the mirror alone whether a switch can be made
// now.
func (m *Migration) gates(r Record, mi *mirror.Mirror) []Gate {
	return m.gatesWithin(r, mi, m.cfg.Cutover.MaxLag, m.cfg.Cutover.MaxStall)
}

// reasonsWithin says why a switch with limits of its own cannot be made now.
func (m *Migration) reasonsWithin(r Record, mi *mirror.Mirror, maxLag, maxStall time.Duration) []string {
	return shut(m.gatesWithin(r, mi, maxLag, maxStall))
}

// gatesWithin is gates for a switch with limits of its own. A gate that is shut may
// stand for all that follow, which cannot be judged then.
func (m *Migration) gatesWithin(r Record, mi *mirror.Mirror, maxLag, maxStall time.Duration) []Gate {
	const phase, free, begun = "phase", "no switch is under way, and a way leads on", "the copy has begun"
	switch {
	case r.Phase.Ended():
		return []Gate{gate(phase, free, "the migration has ended ("+string(r.Phase)+")")}
	case r.Phase.Switching(), r.Phase == Committing, r.Phase == Committed:
		return []Gate{gate(phase, free, "a switch is under way ("+string(r.Phase)+")")}
	case r.oneWay():
		return []Gate{gate(phase, free, r.noWayBack())}
	case mi == nil:
		return []Gate{gate(phase, free), gate("copy", begun, "the copy has not begun ("+string(r.Phase)+")")}
	}
	gates := append([]Gate{gate(phase, free)}, m.copyGates(mi, maxLag, maxStall)...)
	if m.cfg.Shadow.CleanReads > 0 && r.Side == router.Source {
		what := fmt.Sprintf("%d reads were answered alike by both servers", m.cfg.Shadow.CleanReads)
		gates = append(gates, gate("shadow", what, m.shadowReasons(r.Side)...))
	}
	return append(gates, m.crew.gates()...)
}

// copyReasons are those of the copy, whatever the phase.
func (m *Migration) copyReasons(mi *mirror.Mirror, maxLag, maxStall time.Duration) []string {
	return shut(m.copyGates(mi, maxLag, maxStall))
}

// copyGates are those of the copy, whatever the phase.
func (m *Migration) copyGates(mi *mirror.Mirror, maxLag, maxStall time.Duration) []Gate {
	var gates []Gate
	add := func(name, what string, why []string) { gates = append(gates, gate(name, what, why...)) }
	if m.opt.Only != nil {
		var why []string
		if !m.cfg.Cutover.AllowPartial {
			why = []string{preflight.Partial(m.opt.Only)}
		}
		add("filter", "all keys are copied, or clients need no others", why)
	}
	p := mi.Progress()
	paused := ""
	if mi.Throttle().Status().Paused {
		paused = " (paused: crossfade throttle --resume)"
	}
	var state, oldest []string
	switch p.State {
	case mirror.Live, mirror.Behind:
		if p.Pressing > max(p.Lag, maxLag) { // the heartbeat is in one database only
			oldest = append(oldest, fmt.Sprintf("the oldest change that is not yet on the other server is %v old, the limit (cutover.max_lag) %v", p.Pressing.Round(time.Millisecond), maxLag))
		}
	case mirror.Copying:
		state = append(state, "the first copy is under way: "+percents(p.Databases)+paused)
	case mirror.Resync:
		why := p.Reason
		if why == "" {
			why = "changes may have been missed"
		}
		state = append(state, why+"; scanning again: "+percents(p.Databases)+paused)
	default:
		state = append(state, "the copy is "+string(p.State))
	}
	add("copy", "the copy is complete, and no change was missed", state)
	var searching []string
	if p.Searching {
		searching = append(searching, "commands ran that no notification reports, by scripts or past the proxy, and the streams that they may have changed are looked for")
	}
	add("silent", "it is known what silent commands may have changed", searching)
	add("changes", fmt.Sprintf("no change waits longer than %v", maxLag), oldest)
	add("keys", "every key can be copied", stuckReasons(p))
	add("big-keys", "no big key would keep clients waiting", bigReasons(p, maxStall))
	var lag []string
	if p.Lag > maxLag {
		lag = append(lag, fmt.Sprintf("the lag is %v, the limit (cutover.max_lag) %v", p.Lag.Round(time.Millisecond), maxLag))
	}
	add("lag", fmt.Sprintf("a change is on the other server within %v", maxLag), lag)
	if m.cfg.Verify.Gate != "off" {
		add("verification", m.verifyGate(), m.verifyReasons())
	}
	return gates
}

// verifyGate says what verify.gate asks for.
func (m *Migration) verifyGate() string {
	if m.cfg.Verify.Gate == "passed" {
		return "a verification of all keys has passed"
	}
	return "no verification has found a difference that is still there"
}

func stuckReasons(p mirror.Progress) []string {
	if len(p.Stuck) == 0 {
		return nil
	}
	n, k := 0, p.Stuck[0]
	for _, d := range p.Databases {
		n += d.Stuck
	}
	return []string{fmt.Sprintf("%d keys cannot be copied, such as %q of database %d: %s", n, k.Key, k.Database, k.Why)}
}

func bigReasons(p mirror.Progress, maxStall time.Duration) (out []string) {
	for _, k := range p.Big {
		if !tooSlow(k, maxStall) {
			continue
		}
		why := fmt.Sprintf("changes all the time in ways that take a whole copy, and that takes %v", k.Cost.Round(time.Millisecond))
		if k.First {
			why = fmt.Sprintf("is copied as a whole for the first time, and what is left takes about %v", k.Cost.Round(100*time.Millisecond))
		}
		out = append(out, fmt.Sprintf("key %q of database %d (%s) %s: clients would wait for it longer than half of the limit (cutover.max_stall) of %v", k.Key, k.Database, k.Type, why, maxStall))
	}
	return out
}
