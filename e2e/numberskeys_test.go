package e2e

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/migration"
)

// numbers are values by the names and labels that they have in /metrics.
type numbers map[string]float64

// since takes off what Redis had counted before; what does not count up stays.
func (n numbers) since(before numbers) numbers {
	out := numbers{}
	for name, v := range n {
		if cumulative(name) {
			v -= before[name]
		}
		out[name] = v
	}
	return out
}

// family is a name without labels.
func family(name string) string {
	before, _, _ := strings.Cut(name, "{")
	return before
}

// cumulative says of a number that it only grows.
func cumulative(name string) bool {
	return strings.HasSuffix(family(name), "_total") || strings.HasSuffix(family(name), "_lag_seconds_count")
}

// constant says that it stays as it is under the load of the test.
func constant(name string) bool {
	switch family(name) {
	case "crossfade_clients", "crossfade_phase", "crossfade_side", "crossfade_limit_lag_seconds", "crossfade_limit_stall_seconds", "crossfade_fence_up", "crossfade_strays",
		"crossfade_last_switch_held_seconds", "crossfade_last_switch_stall_seconds", "crossfade_last_switch_clients", "crossfade_last_switch_step_seconds", "crossfade_sync_scan_keys":
		return true
	}
	return false
}

// restless says that it changes even when nobody does anything: heartbeats, ages, the walk in
// the background. It is compared whenever two looks have found the same.
func restless(name string) bool {
	f := family(name)
	return strings.Contains(f, "lag_seconds") || strings.HasPrefix(f, "crossfade_verify_") || f == "crossfade_sync_oldest_change_seconds" ||
		strings.HasPrefix(f, "crossfade_sync_scan_") || strings.Contains(f, "dirty") || strings.Contains(f, "in_flight") || strings.HasPrefix(f, "crossfade_sync_copied") ||
		strings.HasPrefix(f, "connections of")
}

// notInStatus are metrics that are in no status, or not in this form: the histograms, of which
// status has quantiles, and the shadow reads of the verb shadow.
var notInStatus = map[string]bool{
	"crossfade_build_info": true, "crossfade_serving": true, "crossfade_sync_scan_eta_seconds": true, "crossfade_verify_age_seconds": true,
	"crossfade_command_duration_seconds_bucket": true, "crossfade_command_duration_seconds_count": true, "crossfade_command_duration_seconds_sum": true,
}

// scraped reads what /metrics answers, what is ours.
func scraped(text io.Reader) (numbers, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	got := numbers{}
	for name, f := range families {
		if !strings.HasPrefix(name, "crossfade_") {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName(), l.GetValue())
			}
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				got.put(m.GetHistogram().GetSampleSum(), name+"_sum", labels...)
				got.put(float64(m.GetHistogram().GetSampleCount()), name+"_count", labels...)
			case dto.MetricType_SUMMARY:
				for _, q := range m.GetSummary().GetQuantile() {
					got.put(q.GetValue(), name, append(labels, "quantile", fmt.Sprint(q.GetQuantile()))...)
				}
				got.put(m.GetSummary().GetSampleSum(), name+"_sum", labels...)
				got.put(float64(m.GetSummary().GetSampleCount()), name+"_count", labels...)
			default:
				got.put(m.GetGauge().GetValue()+m.GetCounter().GetValue(), name, labels...)
			}
		}
	}
	return got, err
}

// put notes a value under a name with labels: names and values by turns.
func (n numbers) put(v float64, name string, labels ...string) {
	var pairs []string
	for i := 0; i < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+`="`+labels[i+1]+`"`)
	}
	if slices.Sort(pairs); len(pairs) > 0 {
		name += "{" + strings.Join(pairs, ",") + "}"
	}
	n[name] = v
}

func truth01(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// ofStatus has a status' numbers under the names of the metrics that mean the same. It is
// written here by itself, and not with what makes the metrics.
func ofStatus(st admin.StatusReply) numbers {
	n := numbers{}
	put := func(name string, v float64, labels ...string) { n.put(v, "crossfade_"+name, labels...) }
	for _, p := range migration.Phases() {
		put("phase", truth01(p == st.Phase), "phase", string(p))
	}
	put("side", truth01(st.Side.String() == "source"), "side", "source")
	put("side", truth01(st.Side.String() == "target"), "side", "target")
	put("ready", truth01(st.Ready))
	put("switch_waiting", truth01(st.Waiting != nil))
	put("lag_seconds", st.LagMS/1000)
	put("dirty_keys", float64(st.Dirty))
	put("gaps_total", float64(st.Gaps))
	for _, g := range st.Gates {
		put("gate_open", truth01(g.OK), "gate", g.Name)
	}
	put("limit_lag_seconds", st.Limits.MaxLagMS/1000)
	put("limit_stall_seconds", st.Limits.MaxStallMS/1000)
	ofCopy(put, st.Status)
	ofSwitches(put, st.Status)
	put("verify_walks_total", float64(st.Verify.Background.Walks))
	put("verify_alarms_total", float64(st.Verify.Background.Alarms))
	for _, state := range []string{"off", "waiting", "comparing"} {
		put("verify_background", truth01(st.Verify.Background.State == state), "state", state)
	}
	for _, v := range []*migration.VerifySummary{st.Verify.Background.Last, st.Verify.Last} {
		if v != nil {
			put("verify_keys", float64(v.Keys), "by", v.By)
			put("verify_differing_keys", float64(v.Differing), "by", v.By)
			put("verify_undecided_keys", float64(v.Undecided), "by", v.By)
			put("verify_holds", truth01(v.Holds), "by", v.By)
		}
	}
	put("shadow_percent", float64(st.Shadow.Percent))
	put("shadow_active", truth01(st.Shadow.State == "on"))
	put("shadow_differing_keys_total", float64(st.Shadow.Keys))
	if st.Proxy != nil {
		ofProxy(put, *st.Proxy)
		for side, c := range st.Proxy.Upstreams {
			n["connections of clients to the "+side] = float64(c.Shared + c.Pinned + c.Idle)
		}
	}
	return n
}

func ofCopy(put func(string, float64, ...string), st migration.Status) {
	for _, d := range st.Databases {
		db := strconv.Itoa(d.Source)
		for name, v := range map[string]float64{
			"scan_keys": float64(d.Total), "scanned_keys": float64(d.Scanned), "scan_keys_per_second": d.Rate, "scan_complete": truth01(d.Done),
			"copied_keys_total": float64(d.Copied), "equal_keys_total": float64(d.Equal), "removed_keys_total": float64(d.Removed), "copied_bytes_total": float64(d.Bytes),
			"dirty_keys": float64(d.Dirty), "in_flight_keys": float64(d.InFlight), "oldest_change_seconds": d.OldestMS / 1000, "uncopied_keys": float64(d.Uncopied),
		} {
			put("sync_"+name, v, "database", db)
		}
	}
	put("sync_heartbeat_lag_seconds", st.LagP50MS/1000, "quantile", "0.5")
	put("sync_heartbeat_lag_seconds", st.LagP99MS/1000, "quantile", "0.99")
	put("sync_heartbeat_lag_seconds_count", float64(st.Beats))
	put("sync_heartbeat_lag_seconds_sum", st.LagSumMS/1000)
	for _, kind := range []string{"commandstats", "compare", "copy", "evicted", "feed", "functions", "gap", "heartbeat", "loss", "notifications", "scan", "target", "unannounced", "untold"} {
		put("sync_errors_total", 0, "kind", kind)
	}
	for _, e := range st.Errors {
		put("sync_errors_total", float64(e.Count), "kind", e.Kind)
	}
	put("sync_feed", 1, "feed", st.Feed)
	put("sync_feed_up", truth01(st.FeedUp))
	put("sync_bypassed_changes_total", float64(st.Views.Bypassed))
	put("sync_unclear_changes_total", float64(st.Views.Unclear))
	for command, k := range st.Views.Unannounced {
		put("sync_unannounced_writes_total", float64(k), "command", command)
	}
	put("sync_throttle_paused", truth01(st.Throttle.Paused))
	put("sync_throttle_keys_per_second", float64(st.Throttle.Keys))
	put("sync_throttle_bytes_per_second", float64(st.Throttle.Bytes))
}

func ofSwitches(put func(string, float64, ...string), st migration.Status) {
	for verb, outcomes := range st.Switches {
		for outcome, k := range outcomes {
			put("switches_total", float64(k), "verb", verb, "outcome", string(outcome))
		}
	}
	put("fence_up", truth01(st.Fence != ""))
	put("fence_lost_total", float64(st.FenceLost))
	put("strays", float64(len(st.Strays)))
	states := map[string]float64{"fenced": 0, "not_fenced": 0, "to_be_put_back": 0}
	for _, r := range st.Replicas {
		switch {
		case r.Problem != "":
			states["not_fenced"]++
		case r.Fence != "":
			states["fenced"]++
		default:
			states["to_be_put_back"]++
		}
	}
	for state, k := range states {
		put("replicas", k, "state", state)
	}
	r := st.LastCutover
	if r == nil {
		return
	}
	put("last_switch_timestamp_seconds", float64(r.Started.UnixMilli())/1000)
	put("last_switch_successful", truth01(r.OK))
	put("last_switch_held_seconds", r.Held/1000)
	put("last_switch_clients", float64(r.Sessions))
	for percentile, v := range map[string]float64{"50": r.Stall.P50, "99": r.Stall.P99, "100": r.Stall.Max} {
		put("last_switch_stall_seconds", v/1000, "percentile", percentile)
	}
	for _, s := range r.Steps {
		put("last_switch_step_seconds", s.MS/1000, "step", s.Name)
	}
}

func ofProxy(put func(string, float64, ...string), p admin.ProxyStatus) {
	put("clients", float64(p.Clients.Shared), "kind", "shared")
	put("clients", float64(p.Clients.Pinned), "kind", "pinned")
	put("clients_accepted_total", float64(p.Clients.Accepted))
	put("clients_refused_total", float64(p.Clients.Refused))
	put("clients_output_limit_total", float64(p.Clients.OutputLimit))
	put("commands_in_flight", float64(p.InFlight.Shared), "kind", "shared")
	put("commands_in_flight", float64(p.InFlight.Pinned), "kind", "pinned")
	put("commands_received_total", float64(p.Commands))
	put("received_bytes_total", float64(p.BytesIn))
	put("sent_bytes_total", float64(p.BytesOut))
	put("slow_commands_total", float64(p.SlowLogged))
	for _, f := range p.Families {
		put("commands_total", float64(f.Commands), "family", f.Family)
	}
	for kind, k := range p.Errors {
		put("errors_total", float64(k), "kind", kind)
	}
	for side, c := range p.Upstreams {
		put("upstream_connections", float64(c.Shared), "side", side, "kind", "shared")
		put("upstream_connections", float64(c.Pinned), "side", side, "kind", "pinned")
		put("upstream_connections", float64(c.Idle), "side", side, "kind", "idle")
		put("upstream_failures_total", float64(c.Failed), "side", side)
	}
}
