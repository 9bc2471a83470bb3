package admin

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/mirror"
)

// What the copy says of itself, apart from the few figures that the page begins
// with. A database is named by its number on the source.
var (
	descScanKeys    = describe("sync_scan_keys", "Keys of the database when its current or last scan began.", "database")
	descScanned     = describe("sync_scanned_keys", "Keys that the current or last scan has seen.", "database")
	descScanRate    = describe("sync_scan_keys_per_second", "Keys a second of the current or last scan.", "database")
	descScanETA     = describe("sync_scan_eta_seconds", "For how long the current scan will go on at this rate; 0 when there is none.", "database")
	descScanDone    = describe("sync_scan_complete", "Whether every scan that was due is through.", "database")
	descCopied      = describe("sync_copied_keys_total", "Copies written, of scans and of changes.", "database")
	descEqual       = describe("sync_equal_keys_total", "Scanned keys that were the same on the other server already and not written.", "database")
	descRemoved     = describe("sync_removed_keys_total", "Keys removed because they are gone where they came from.", "database")
	descCopiedBytes = describe("sync_copied_bytes_total", "Bytes of the copies written.", "database")
	descDirtyOf     = describe("sync_dirty_keys", "Changed keys whose copy is outstanding, those in flight included.", "database")
	descInFlightOf  = describe("sync_in_flight_keys", "Keys that are being copied.", "database")
	descOldest      = describe("sync_oldest_change_seconds", "Age of the oldest change that is not yet on the other server; 0 when there is none.", "database")

	descLagOf       = describe("sync_heartbeat_lag_seconds", "The lag of heartbeats that have arrived; the quantiles are of the latest 300.")
	descSyncErrors  = describe("sync_errors_total", "Troubles of the copy, by kind; status has the latest of each.", "kind")
	descFeed        = describe("sync_feed", "1 for what tells of changes.", "feed")
	descFeedUp      = describe("sync_feed_up", "Whether that is connected, and was proved of late to tell of changes.")
	descUncopiedOf  = describe("sync_uncopied_keys", "Keys that cannot be copied.", "database")
	descPaused      = describe("sync_throttle_paused", "Whether scans are paused.")
	descKeyLimit    = describe("sync_throttle_keys_per_second", "How many keys a second scans may copy; 0 is no bound.")
	descByteLimit   = describe("sync_throttle_bytes_per_second", "How many bytes a second scans may copy; 0 is no bound.")
	descBypassed    = describe("sync_bypassed_changes_total", "Changes of keys that were told and that no client of the proxy made, about.")
	descUnclear     = describe("sync_unclear_changes_total", "Changes of keys that were told and that scripts or modules' commands through the proxy may have made, about.")
	descUnannounced = describe("sync_unannounced_writes_total", "Writes through the proxy that caused no notification; they were copied all the same.", "command")
)

var syncDescs = []*prometheus.Desc{descScanKeys, descScanned, descScanRate, descScanETA, descScanDone, descCopied, descEqual, descRemoved, descCopiedBytes,
	descDirtyOf, descInFlightOf, descOldest, descLagOf, descSyncErrors, descFeed, descFeedUp, descUncopiedOf, descPaused, descKeyLimit, descByteLimit, descBypassed, descUnclear, descUnannounced}

func collectSync(out chan<- prometheus.Metric, st migration.Status) {
	gauge, count := gauges(out), counts(out)
	for _, d := range st.Databases {
		db := strconv.Itoa(d.Source)
		gauge(descScanKeys, float64(d.Total), db)
		gauge(descScanned, float64(d.Scanned), db)
		gauge(descScanRate, d.Rate, db)
		gauge(descScanETA, d.ETA, db)
		gauge(descScanDone, one(d.Done), db)
		count(descCopied, float64(d.Copied), db)
		count(descEqual, float64(d.Equal), db)
		count(descRemoved, float64(d.Removed), db)
		count(descCopiedBytes, float64(d.Bytes), db)
		gauge(descDirtyOf, float64(d.Dirty), db)
		gauge(descInFlightOf, float64(d.InFlight), db)
		gauge(descOldest, d.OldestMS/1000, db)
		gauge(descUncopiedOf, float64(d.Uncopied), db)
	}
	out <- prometheus.MustNewConstSummary(descLagOf, uint64(st.Beats), st.LagSumMS/1000, map[float64]float64{0.5: st.LagP50MS / 1000, 0.99: st.LagP99MS / 1000})
	troubles := make(map[string]int)
	for _, kind := range mirror.ErrorKinds { // there before the first one, or else an increase would not be seen
		troubles[kind] = 0
	}
	for _, e := range st.Errors {
		troubles[e.Kind] = e.Count
	}
	for kind, n := range troubles {
		count(descSyncErrors, float64(n), kind)
	}
	if st.Feed != "" {
		gauge(descFeed, 1, st.Feed)
		gauge(descFeedUp, one(st.FeedUp))
	}
	gauge(descPaused, one(st.Throttle.Paused))
	gauge(descKeyLimit, float64(st.Throttle.Keys))
	gauge(descByteLimit, float64(st.Throttle.Bytes))
	count(descBypassed, float64(st.Views.Bypassed))
	count(descUnclear, float64(st.Views.Unclear))
	for command, n := range st.Views.Unannounced {
		count(descUnannounced, float64(n), command)
	}
}
