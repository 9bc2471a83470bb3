package admin

import (
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/proxy"
	"github.com/crossfade/crossfade/router"
)

// metricsPage returns what answers /metrics. Its registry is its own: nothing that
// a library registers elsewhere is on it.
func (s *Server) metricsPage() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(scrape{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// scrape makes metrics of one status and one snapshot of the numbers.
type scrape struct{ s *Server }

func describe(name, help string, labels ...string) *prometheus.Desc {
	described = append(described, Metric{Name: "crossfade_" + name, Type: typeOf(name), Help: help, Labels: labels})
	return prometheus.NewDesc("crossfade_"+name, help, labels, nil)
}

var (
	descBuild = describe("build_info", "The version of the sidecar.", "version")
	descPhase = describe("phase", "1 for the phase of the migration, 0 for all others.", "phase")
	descSide  = describe("side", "1 for the side that answers the clients.", "side")
	descReady = describe("ready", "Whether a switch could be made now.")
	descServe = describe("serving", "Whether clients are served; 0 while it finds out where they belong, and while it stops.")
	descWaits = describe("switch_waiting", "Whether a switch waits for its moment.")
	descLag   = describe("lag_seconds", "From writing a heartbeat to reading it back on the other server.")
	descDirty = describe("dirty_keys", "Changed keys whose copy is outstanding.")
	descGaps  = describe("gaps_total", "Times that changes may have been missed.")

	descWalks      = describe("verify_walks_total", "Comparisons of all keys that the background has finished.")
	descAlarms     = describe("verify_alarms_total", "Keys that were proved to differ by the background although the copy claimed to be live.")
	descVerifyAge  = describe("verify_age_seconds", "Since the newest finished comparison began.", "by")
	descVerified   = describe("verify_keys", "Keys that the newest finished comparison has looked at.", "by")
	descDiffering  = describe("verify_differing_keys", "Keys that differed at the end of the newest finished comparison; mended ones do not count.", "by")
	descUndecided  = describe("verify_undecided_keys", "Keys about which the newest finished comparison could not tell.", "by")
	descVerifying  = describe("verify_background", "1 for what the comparison in the background does: off, waiting (for the copy, or for the next walk) or comparing.", "state")
	descVerifyGood = describe("verify_holds", "Whether the newest finished comparison found no difference in all keys, and every change since was followed.", "by")

	descCommands  = describe("commands_total", "Commands that were answered.", "family")
	descDuration  = describe("command_duration_seconds", "Part upstream: from passing a command on until its reply is there. Part total: from having read it until its reply is handed on.", "family", "part")
	descInFlight  = describe("commands_in_flight", "Commands that are not answered yet, by how their clients are connected.", "kind")
	descErrors    = describe("errors_total", "Error replies, by their first word.", "kind")
	descReceived  = describe("received_bytes_total", "Bytes received from clients.")
	descSent      = describe("sent_bytes_total", "Bytes sent to clients.")
	descClients   = describe("clients", "Clients by whether they share upstream connections.", "kind")
	descAccepted  = describe("clients_accepted_total", "Connections of clients that were accepted.")
	descRefused   = describe("clients_refused_total", "Connections of clients that were refused because there were too many.")
	descOutput    = describe("clients_output_limit_total", "Clients that were closed because they did not read their replies.")
	descUpstreams = describe("upstream_connections", "Connections to the servers; idle ones are kept for the next client that needs one.", "side", "kind")
	descSlow      = describe("slow_commands_total", "Commands that were slow, in the slow log or not.")
	descReached   = describe("upstream_failures_total", "Attempts to connect to a server for clients that were in vain.", "side")
	descCame      = describe("commands_received_total", "Commands that clients have sent.")
)

// Describe implements prometheus.Collector.
func (c scrape) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBuild, descPhase, descSide, descReady, descServe, descWaits, descLag, descDirty, descGaps,
		descWalks, descAlarms, descVerifyAge, descVerified, descDiffering, descUndecided, descVerifying, descVerifyGood, descCommands, descDuration,
		descInFlight, descErrors, descReceived, descSent, descClients, descAccepted, descRefused, descOutput, descUpstreams, descSlow, descReached, descCame} {
		out <- d
	}
	for _, d := range slices.Concat(syncDescs, switchDescs, shadowDescs) {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c scrape) Collect(out chan<- prometheus.Metric) {
	gauge, count := gauges(out), counts(out)
	st := c.s.opt.Operator.Status()
	gauge(descBuild, 1, c.s.opt.Version)
	for _, p := range migration.Phases() {
		gauge(descPhase, one(p == st.Phase), string(p))
	}
	for _, side := range []router.Side{router.Source, router.Target} {
		gauge(descSide, one(side == st.Side), side.String())
	}
	gauge(descReady, one(st.Ready))
	gauge(descServe, one(c.s.opt.Serving()))
	gauge(descWaits, one(st.Waiting != nil))
	gauge(descLag, st.LagMS/1000)
	gauge(descDirty, float64(st.Dirty))
	count(descGaps, float64(st.Gaps))
	collectSync(out, st)
	collectSwitches(out, st)
	verification(out, st.Verify)
	judgedShadows(out, st.Shadow)
	if c.s.opt.Meter == nil {
		return
	}
	n := c.s.opt.Meter.Numbers()
	for i := range n.Families {
		f := &n.Families[i]
		if f.Commands == 0 {
			continue
		}
		count(descCommands, float64(f.Commands), f.Name)
		out <- duration(&f.Upstream, f.Name, "upstream")
		out <- duration(&f.Total, f.Name, "total")
	}
	for kind, k := range n.Errors {
		count(descErrors, float64(k), kind)
	}
	gauge(descInFlight, float64(n.Sharing), "shared")
	gauge(descInFlight, float64(n.Pinning), "pinned")
	gauge(descClients, float64(n.Shared), "shared")
	gauge(descClients, float64(n.Pinned), "pinned")
	count(descReceived, float64(n.BytesIn))
	count(descSent, float64(n.BytesOut))
	count(descAccepted, float64(n.Accepted))
	count(descRefused, float64(n.Refused))
	count(descOutput, float64(n.Overflowed))
	count(descSlow, float64(n.SlowLogged))
	count(descCame, float64(n.Commands))
	askedShadows(out, &n.Shadowed)
	for i, u := range n.Connections {
		side := router.Side(i).String()
		gauge(descUpstreams, float64(u.Shared), side, "shared")
		gauge(descUpstreams, float64(u.Pinned), side, "pinned")
		gauge(descUpstreams, float64(u.Idle), side, "idle")
		count(descReached, float64(u.Failed), side)
	}
}

// verification has one series for the background's comparison and one for the
// operator's, where there was one.
func verification(out chan<- prometheus.Metric, v migration.VerifyStatus) {
	gauge, count := gauges(out), counts(out)
	count(descWalks, float64(v.Background.Walks))
	count(descAlarms, float64(v.Background.Alarms))
	for _, state := range []string{"off", "waiting", "comparing"} {
		gauge(descVerifying, one(state == v.Background.State), state)
	}
	list := []*migration.VerifySummary{v.Background.Last}
	if v.Last != nil && v.Last.By != "background" {
		list = append(list, v.Last)
	}
	for _, s := range list {
		if s == nil {
			continue
		}
		gauge(descVerifyAge, s.Age, s.By)
		gauge(descVerified, float64(s.Keys), s.By)
		gauge(descDiffering, float64(s.Differing), s.By)
		gauge(descUndecided, float64(s.Undecided), s.By)
		gauge(descVerifyGood, one(s.Holds), s.By)
	}
}

func gauges(out chan<- prometheus.Metric) func(*prometheus.Desc, float64, ...string) {
	return func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
}

func counts(out chan<- prometheus.Metric) func(*prometheus.Desc, float64, ...string) {
	return func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// The buckets that are shown: one for each power of two from 16 µs to 8.4 s. The
// histograms themselves are twice as fine, which would be twice as many series.
const (
	firstShown = 8
	lastShown  = 46
)

func duration(h *proxy.Histogram, family, part string) prometheus.Metric {
	return histogram(descDuration, h, family, part)
}

func histogram(d *prometheus.Desc, h *proxy.Histogram, labels ...string) prometheus.Metric {
	shown := make(map[float64]uint64, (lastShown-firstShown)/2+1)
	var below uint64
	for i, n := range h.Buckets {
		below += uint64(n)
		if i >= firstShown && i <= lastShown && i%2 == 0 {
			shown[proxy.Bound(i).Seconds()] = below
		}
	}
	return prometheus.MustNewConstHistogram(d, below, h.Sum.Seconds(), shown, labels...)
}
