package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crossfade/crossfade/migration"
)

// What a switch waits for, what it is bound by, how switches have ended, and what has to
// stand after one.
var (
	descGate       = describe("gate_open", "Whether one condition of the next switch is met, as far as it can be judged now.", "gate")
	descLagLimit   = describe("limit_lag_seconds", "How far behind the copy may be for a switch (cutover.max_lag).")
	descStallLimit = describe("limit_stall_seconds", "For how long clients may wait in a switch (cutover.max_stall).")

	descSwitches    = describe("switches_total", "Attempts to switch: made in time, late (made, but clients waited longer than they were to), overspent (taken back because they would have), refused by a check, or failed.", "verb", "outcome")
	descSwitchTime  = describe("last_switch_timestamp_seconds", "When the latest attempt began, dry runs and rehearsals included.")
	descSwitchGood  = describe("last_switch_successful", "Whether the latest attempt did what it was to.")
	descSwitchHeld  = describe("last_switch_held_seconds", "From the hold to the release of the latest attempt.")
	descSwitchWaits = describe("last_switch_clients", "Clients that had work and waited in the latest attempt.")
	descSwitchStall = describe("last_switch_stall_seconds", "How long clients waited in the latest attempt: percentiles of them, 100 is who waited longest.", "percentile")
	descSwitchStep  = describe("last_switch_step_seconds", "How long a step of the latest attempt took, or would have.", "step")

	descFence     = describe("fence_up", "Whether the server that is not in use is fenced.")
	descFenceLost = describe("fence_lost_total", "Times that this fence was found gone; it is raised again.")
	descStrays    = describe("strays", "Clients of the fenced server, past the proxy: they are refused there.")
	descReplicas  = describe("replicas", "Replicas of the server that was left: fenced with it, not fenced, or to be put back.", "state")
)

var switchDescs = []*prometheus.Desc{descGate, descLagLimit, descStallLimit, descSwitches, descSwitchTime, descSwitchGood, descSwitchHeld, descSwitchWaits, descSwitchStall,
	descSwitchStep, descFence, descFenceLost, descStrays, descReplicas}

func collectSwitches(out chan<- prometheus.Metric, st migration.Status) {
	gauge, count := gauges(out), counts(out)
	for _, g := range st.Gates {
		gauge(descGate, one(g.OK), g.Name)
	}
	gauge(descLagLimit, st.Limits.MaxLagMS/1000)
	gauge(descStallLimit, st.Limits.MaxStallMS/1000)
	for verb, outcomes := range st.Switches {
		for outcome, n := range outcomes {
			count(descSwitches, float64(n), verb, string(outcome))
		}
	}
	if r := st.LastCutover; r != nil {
		lastSwitch(out, r)
	}
	gauge(descFence, one(st.Fence != ""))
	count(descFenceLost, float64(st.FenceLost))
	gauge(descStrays, float64(len(st.Strays)))
	var fenced, open, left int
	for _, r := range st.Replicas {
		switch {
		case r.Problem != "":
			open++
		case r.Fence != "":
			fenced++
		default:
			left++
		}
	}
	gauge(descReplicas, float64(fenced), "fenced")
	gauge(descReplicas, float64(open), "not_fenced")
	gauge(descReplicas, float64(left), "to_be_put_back")
}

func lastSwitch(out chan<- prometheus.Metric, r *migration.Report) {
	gauge := gauges(out)
	gauge(descSwitchTime, float64(r.Started.UnixMilli())/1000)
	gauge(descSwitchGood, one(r.OK))
	gauge(descSwitchHeld, r.Held/1000)
	gauge(descSwitchWaits, float64(r.Sessions))
	gauge(descSwitchStall, r.Stall.P50/1000, "50")
	gauge(descSwitchStall, r.Stall.P99/1000, "99")
	gauge(descSwitchStall, r.Stall.Max/1000, "100")
	taken := make(map[string]float64) // a step that was repeated counts once
	for _, s := range r.Steps {
		taken[s.Name] += s.MS / 1000
	}
	for name, seconds := range taken {
		gauge(descSwitchStep, seconds, name)
	}
}
