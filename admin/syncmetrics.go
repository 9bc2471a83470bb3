package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crossfade/crossfade/migration"
)

// What the copy says of itself, apart from the few figures that the proxy's page
// begins with.
var (
	descBypassed    = describe("sync_bypassed_changes_total", "Changes of keys that were told and that no client of the proxy made, about.")
	descUnclear     = describe("sync_unclear_changes_total", "Changes of keys that were told and that scripts or modules' commands through the proxy may have made, about.")
	descUnannounced = describe("sync_unannounced_writes_total", "Writes through the proxy that caused no notification; they were copied all the same.", "command")
)

var syncDescs = []*prometheus.Desc{descBypassed, descUnclear, descUnannounced}

func collectSync(out chan<- prometheus.Metric, st migration.Status) {
	count := counts(out)
	count(descBypassed, float64(st.Views.Bypassed))
	count(descUnclear, float64(st.Views.Unclear))
	for command, n := range st.Views.Unannounced {
		count(descUnannounced, float64(n), command)
	}
}
