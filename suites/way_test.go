package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestWays has a server answer on each way, at one address.
func TestWays(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "crossfade")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/crossfade/crossfade/cmd/crossfade").CombinedOutput(); err != nil {
		t.Fatalf("building crossfade: %v\n%s", err, out)
	}
	for _, mode := range []string{"", "shared", "pinned"} {
		t.Run("mode "+mode, func(t *testing.T) {
			w := &way{crossfade: binary, mode: mode, dir: t.TempDir()}
			defer func() {
				if err := w.close(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			}()
			if err := w.start(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			host, p := w.hostPort()
			c := redis.NewClient(&redis.Options{Addr: host + ":" + p})
			defer func() { _ = c.Close() }()
			if err := c.Ping(t.Context()).Err(); err != nil {
				t.Errorf("at %s:%s: %v", host, p, err)
			}
		})
	}
}
