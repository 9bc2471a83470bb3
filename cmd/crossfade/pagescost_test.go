package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestHundredDashboardsCostLittle: what the sidecar's processor time for 100 open pages
// and 10 terminals comes to, as a share of what it uses when clients ask as fast as they
// can. That share is what they could take away from the clients.
func TestHundredDashboardsCostLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures")
	}
	source, target := redistest.Start(t), redistest.Start(t)
	cf := startSidecar(t, source, target, "--log.status_interval", "1h")
	cf.awaitReady(t)
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(cf.dir, "clients.sock"), Protocol: 2, DisableIdentity: true, PoolSize: 16})
	t.Cleanup(func() { _ = c.Close() })

	const window = time.Second
	idle := func() float64 {
		before, began := redistest.ProcessorTime(t, cf.Process.Pid), time.Now()
		select { // what is measured is what goes on by itself
		case <-time.After(window):
		case <-t.Context().Done():
		}
		return (redistest.ProcessorTime(t, cf.Process.Pid) - before).Seconds() / time.Since(began).Seconds()
	}
	load := func() (share, perSecond float64) {
		ctx, cancel := context.WithTimeout(t.Context(), window)
		defer cancel()
		var group sync.WaitGroup
		var n atomic.Int64
		before, began := redistest.ProcessorTime(t, cf.Process.Pid), time.Now()
		for range 16 {
			group.Go(func() {
				for c.Set(ctx, "k", "v", 0).Err() == nil {
					n.Add(1)
				}
			})
		}
		group.Wait()
		took := time.Since(began).Seconds()
		return (redistest.ProcessorTime(t, cf.Process.Pid) - before).Seconds() / took, float64(n.Load()) / took
	}
	alone := idle()
	busy, rate := load()

	var events atomic.Int64
	for range 100 {
		stream := openPage(t, filepath.Join(cf.dir, "crossfade.sock"))
		go func() {
			for {
				line, err := stream.ReadString('\n')
				if err != nil {
					return
				}
				if strings.HasPrefix(line, "event: status") {
					events.Add(1)
				}
			}
		}()
	}
	for range 10 {
		launch(t, cf.dir, "status", "--watch", "--json")
	}
	redistest.Eventually(t, 20*time.Second, func() bool { return events.Load() >= 200 }, "all pages are told something")
	before := events.Load()
	watched := idle()
	told := float64(events.Load()-before) / window.Seconds()
	_, watchedRate := load()

	cost := (watched - alone) / busy
	t.Logf("idle %.4f of a processor, with pages %.4f (%.0f events/s), under load %.3f; that is %.2f %% of what clients get. %.0f commands/s, with pages %.0f",
		alone, watched, told, busy, 100*cost, rate, watchedRate)
	if told < 80 {
		t.Errorf("the pages were told %.0f events a second", told)
	}
	if cost > 0.1 { // much more than is seen: on a machine that others keep busy clients get less
		t.Errorf("100 pages and 10 terminals cost %.1f %% of what clients can get", 100*cost)
	}
}

// openPage follows the events as the dashboard does, until the test ends.
func openPage(t *testing.T, socket string) *bufio.Reader {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != 200 {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("a page: %s: %s", response.Status, text)
	}
	return bufio.NewReader(response.Body)
}
