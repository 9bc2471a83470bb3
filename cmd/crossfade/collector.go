package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much garbage may lie about beside what lives, before it is collected: much
// while there is little, so that the collector takes hardly any of the processor
// from the clients; and never so much that a million dirty keys, or the buffers of
// many clients, would cost their own size several times over.
const (
	gcMost    = 300      // percent of what lives
	gcLeast   = 50       // percent
	gcGarbage = 48 << 20 // bytes, between these
)

// gcPercent returns the collector's percentage for so many living bytes.
func gcPercent(live uint64) int {
	return int(max(gcLeast, min(gcMost, 100*gcGarbage/max(live, 1))))
}

// paceCollector keeps the percentage what it should be until ctx ends.
func paceCollector(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for last := gcMost; ; {
		metrics.Read(live)
		if now := gcPercent(live[0].Value.Uint64()); now != last {
			debug.SetGCPercent(now)
			last = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
