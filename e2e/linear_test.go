package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/linear"
	"github.com/crossfade/crossfade/migration"
)

// TestLinearizable has clients work on the same keys while they are switched there and back:
// one single server that nobody has touched must be able to have answered so. Registers with
// scripts and WATCH, counters, queues with BLPOP, sets, and transactions over two keys.
func TestLinearizable(t *testing.T) {
	for _, row := range []struct {
		name, dbmap, upstream string
		protocol              int
	}{
		{"shared, RESP3", dbmap, "shared", 3},
		{"pinned, RESP2", dbmap, "pinned", 2},
		{"parts of one database", "0=0:c0:,3=0:c3:", "shared", 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t), redistest.Start(t)
			c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: row.dbmap, extra: []string{"--proxy.upstream", row.upstream}})
			c.start("")
			c.awaitReady()
			h := linear.New(linear.Config{Addrs: []string{c.addr}, Databases: []int{0, 3}, Clients: 12, Protocol: row.protocol})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); h.Run(ctx) }()
			t.Cleanup(func() { cancel(); <-ended })
			more := func() {
				t.Helper()
				before, _ := h.Ops()
				redistest.Eventually(t, time.Minute, func() bool { n, _ := h.Ops(); return n >= before+500 }, "clients go on")
			}
			rounds := 4
			if testing.Short() {
				rounds = 1
			}
			for i := range rounds {
				for _, turn := range []func() (migration.Report, error){c.cutover, c.rollback} {
					c.awaitReady()
					more()
					r, err := turn()
					if err != nil {
						t.Fatalf("round %d: %v", i, err)
					}
					t.Logf("%s→%s: held %.1f ms", r.From, r.To, r.Held)
					more()
				}
			}
			cancel()
			<-ended
			if err := h.Errors(); err != nil {
				t.Errorf("clients saw errors: %v", err)
			}
			if err := h.Check(2 * time.Minute); err != nil {
				t.Error(err)
			}
			n, _ := h.Ops()
			t.Logf("%d operations", n)
		})
	}
}
