package proxy

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/router"
)

// TestVanishingClientsAcrossSwitches lets clients of every kind hang up at any
// moment while the sides change: no switch hangs, nothing stays in the gate, no
// connection stays on a server.
func TestVanishingClientsAcrossSwitches(t *testing.T) {
	w := newWorld(t)
	var stop atomic.Bool
	var wg sync.WaitGroup
	scripts := [][]string{
		{"BLPOP q 0", "PING"}, {"MULTI", "SET a 1", "INCR a"}, {"SUBSCRIBE c", "PSUBSCRIBE p*"}, {"HELLO 3", "CLIENT TRACKING ON", "GET a", "SUBSCRIBE x"},
		{"SELECT 3", "WATCH a", "MULTI", "GET a", "EXEC"}, {"CLIENT REPLY OFF", "SET a 1", "SELECT 3", "XREAD BLOCK 0 STREAMS s $"}, {"MONITOR", "PING"},
		{"XREAD BLOCK 20 STREAMS s $", "SET b 1"}, {"PING"}, {"RESET", "PFCOUNT a", "QUIT"}, {"WAIT 1 50", "FLUSHALL"}, {"SELECT 9", "GET a", "SELECT 3"},
	}
	addr := w.proxy.Addr().String()
	for i := range 12 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			for !stop.Load() {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				var b []byte
				for range 1 + rnd.IntN(3) {
					for _, l := range scripts[rnd.IntN(len(scripts))] {
						b = append(append(b, l...), "\r\n"...)
					}
				}
				_, _ = conn.Write(b)
				_ = conn.SetReadDeadline(time.Now().Add(time.Duration(rnd.IntN(20)) * time.Millisecond))
				_, _ = conn.Read(make([]byte, 4096))
				_ = conn.Close()
			}
		})
	}
	side := router.Source
	for range 25 {
		side = side.Other()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		// A session that ends in the middle of Prepare or Align is no error of the switch.
		_ = w.proxy.Prepare(ctx, side)
		if err := w.proxy.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		w.epoch++
		route := router.Route{Side: side, Epoch: w.epoch, Map: w.dbs}
		_ = w.proxy.Align(ctx, route)
		begin := time.Now()
		w.proxy.Release(route)
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("Release took %v", d)
		}
		cancel()
	}
	stop.Store(true)
	wg.Wait()
	until(t, "all sessions have ended", func() bool { return w.proxy.Stats().Clients == 0 })
	until(t, "the gate is empty", func() bool { return w.gate.Inside() == 0 })
	// What the clients shared stays, and so for a while do connections for those to come.
	until(t, "no other upstream connections are left", func() bool {
		shared := 0
		for _, l := range w.proxy.eventLoops() {
			l.call(func() {
				for _, tr := range l.trunks {
					if tr.ready {
						shared++
					}
				}
			})
		}
		return w.proxy.Stats().Upstreams == shared
	})
}
