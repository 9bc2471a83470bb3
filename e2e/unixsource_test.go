package e2e

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
)

// TestUnixSocketsWithoutFence has a source at its unix socket, where all its clients have one
// address, and that nobody can be kept out of: those of the proxy are told from others, so
// they stand in no cutover's way, and are not disconnected by it.
func TestUnixSocketsWithoutFence(t *testing.T) {
	t.Parallel()
	src := redistest.Start(t, redistest.WithUnixSocket(), redistest.WithRenamed("ACL", ""), redistest.WithRenamed("CONFIG", ""), redistest.WithConfig("notify-keyspace-events", "KEA"))
	dst := redistest.Start(t, redistest.WithUnixSocket())
	c := newSidecar(t, setup{source: "unix://" + src.SocketPath(), target: "unix://" + dst.SocketPath(), extra: []string{"--cutover.wait_ready", "5s"}})
	c.start("")
	c.awaitReady()
	through := startLoad(t, history.Config{Addr: c.addr, Databases: []int{0}, Writers: 3, Prefix: "app", MaxRate: 300})
	moreAcked(t, through, 100)
	client := redis.NewClient(redistest.Options(c.addr, 0))
	t.Cleanup(func() { _ = client.Close() })
	one := client.Conn() // with a connection of its own on the source
	t.Cleanup(func() { _ = one.Close() })
	for _, args := range [][]any{{"MULTI"}, {"SET", "queued", "v"}} {
		if err := one.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.cutover()
	if err != nil || r.Fence != migration.FenceKey {
		t.Fatalf("the cutover, with the fence %s: %v", r.Fence, err)
	}
	if got, err := one.Do(t.Context(), "EXEC").Slice(); err != nil || len(got) != 1 {
		t.Errorf("EXEC behind it: %v, %v", got, err)
	}
	moreAcked(t, through, 100)
	through.mustHold(t, dst.Addr(), func(db int) int { return db })
	if s := through.h.Stats(); s.Errors > 0 {
		t.Errorf("clients of the proxy saw %d errors, the last: %s", s.Errors, s.LastError)
	}
}
