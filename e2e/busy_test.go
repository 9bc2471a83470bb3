package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// spin runs for as many seconds as it is told.
const spin = "local t = redis.call('TIME') local e = t[1] * 1000 + t[2] / 1000 + ARGV[1] * 1000 repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > e return 'done'"

// TestSourceBusyWithAScript: a script past the proxy keeps the source busy for longer than
// clients may wait, from a step under the hold on. The attempt is taken back, nothing of it is
// left, and clients go on as soon as the server does, whether that says nothing meanwhile or
// BUSY.
func TestSourceBusyWithAScript(t *testing.T) {
	for how, threshold := range map[string]string{"silent": "60000", "BUSY": "200"} {
		for _, step := range []string{"hold", "soft-fence", "drain-1", "hard-fence"} { // later nobody begins one
			t.Run(how+" from "+step, func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, redistest.WithConfig("busy-reply-threshold", threshold)), redistest.Start(t)
				file := filepath.Join(t.TempDir(), "here")
				c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0"})
				c.start("cutover." + step + ":before#1=wait:" + file)
				c.awaitReady()
				app := redis.NewClient(&redis.Options{Addr: c.addr, ReadTimeout: time.Minute, MaxRetries: -1, ContextTimeoutEnabled: true})
				direct := redis.NewClient(&redis.Options{Addr: src.Addr(), ReadTimeout: time.Minute, MaxRetries: -1})
				t.Cleanup(func() { _, _ = app.Close(), direct.Close() })
				before := [2]traces{tracesOf(t, src), tracesOf(t, dst)}
				s := &stage{t: t, src: src, dst: dst, c: c}
				ran := make(chan error, 1)
				err := s.faultAtWith(router.Source, file, admin.SwitchRequest{MaxStall: "2s"}, func() {
					go func() { ran <- direct.EvalRO(t.Context(), spin, nil, 3).Err() }() // which no pause of writers keeps
					redistest.Eventually(t, 10*time.Second, func() bool {
						o := redistest.Options(src.Addr(), 0)
						o.ReadTimeout = 50 * time.Millisecond
						probe := redis.NewClient(o)
						defer func() { _ = probe.Close() }()
						return probe.Ping(t.Context()).Err() != nil
					}, "the script")
				})
				if err == nil || !strings.Contains(err.Error(), "BUSY") && !strings.Contains(err.Error(), "stall budget") {
					t.Errorf("the switch: %v", err)
				}
				if err := <-ran; err != nil {
					t.Fatalf("the script: %v", err)
				}
				// The pause was for 5 s, and the script for 3.
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := app.Set(ctx, "k", step, 0).Err(); err != nil {
					t.Errorf("a client, when the script is over: %v", err)
				}
				c.awaitReady()
				mustBeGone(t, step, before, src, dst)
				if _, err := c.cutover(); err != nil {
					t.Fatal(err)
				}
				if v, err := dst.Client(0).Get(t.Context(), "k").Result(); err != nil || v != step {
					t.Errorf("on the target: %q, %v", v, err)
				}
			})
		}
	}
}
