package mirror_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// moved has a replica take over behind a link: new connections lead to it, and those of before
// stay with the master of before, which is its replica now.
func moved(t *testing.T, link *redistest.Link, old, now *redistest.Server) {
	t.Helper()
	ctx := t.Context()
	ok(t, now.Client(0).Do(ctx, "REPLICAOF", "NO", "ONE").Err())
	link.SetUpstream(now.Addr())
	ok(t, old.Client(0).Do(ctx, "REPLICAOF", "127.0.0.1", strconv.Itoa(now.Port())).Err())
}

// TestTargetFailsOverBehindOneAddress: where the target's address stands for another server after
// a failover, and the connections of before stay with the old one, they are given up.
func TestTargetFailsOverBehindOneAddress(t *testing.T) {
	w := &world{src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")), dst: redistest.Start(t)}
	heir := redistest.Start(t, redistest.WithConfig("replicaof", "127.0.0.1", strconv.Itoa(w.dst.Port())))
	link := redistest.NewLink(t, w.dst.Addr())
	w.connect(t, w.src.Addr(), link.Addr(), smallIsBig)
	c, ctx := w.src.Client(0), t.Context()
	fill(t, c, 500)
	grow(t, c, "set", 0, 1000)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	redistest.Eventually(t, 20*time.Second, func() bool {
		return heir.Client(0).DBSize(ctx).Val() >= w.dst.Client(0).DBSize(ctx).Val()-1
	}, "the replica has everything")
	moved(t, link, w.dst, heir)
	w.dst = heir
	ok(t, c.Set(ctx, "since", 1, 0).Err())
	ok(t, c.SAdd(ctx, "set", "since").Err())
	redistest.Eventually(t, 20*time.Second, func() error {
		p := w.m.Progress()
		if p.Gaps == 0 || p.State != mirror.Live || heir.Client(0).Exists(ctx, "since").Val() == 0 {
			return fmt.Errorf("%s, %d gaps (%s): %+v", p.State, p.Gaps, p.Reason, p.Errors)
		}
		return nil
	}, "live, with the server that has taken over")
	drain(t, w.m)
	w.mustBeEqual(t)
}
