package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/crossfade/crossfade/bench/traffic"
	"github.com/crossfade/crossfade/internal/redistest"
)

// TestEveryKindOfSessionAcrossSwitches has sessions of every kind at work while it
// switches there and back, and goes through their accounts then: nothing lost, doubled,
// reordered or stale, and nobody has seen an error or a broken connection.
func TestEveryKindOfSessionAcrossSwitches(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0,1=3"})
	c.start("")
	c.awaitReady()
	load := traffic.New(traffic.Config{Addr: c.addr, Rate: 2000, Prefix: "app"})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- load.Run(ctx) }()
	goOn := func() {
		t.Helper()
		from := load.Stats().Operations
		redistest.Eventually(t, time.Minute, func() error {
			if load.Stats().Operations < from+600 {
				return errors.New("clients do not go on: " + load.Stats().LastError)
			}
			return nil
		}, "clients go on")
	}
	goOn()
	for i := range 6 {
		c.awaitReady()
		verb := c.cutover
		if i%2 == 1 {
			verb = c.rollback
		}
		if _, err := verb(); err != nil {
			t.Fatalf("switch %d: %v", i+1, err)
		}
		goOn()
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	a, err := load.Verify(t.Context(), src.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(a)
	if !a.Clean() || a.Errors+a.Reconnects > 0 {
		t.Errorf("the accounts do not agree: %s; the last error: %s", a, a.LastError)
	}
}
