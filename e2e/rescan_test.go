package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// TestKilledWhileItScans kills the sidecar in the middle of the first scan and of the
// one that repairs the restart, and has clients past it change and delete keys while
// nobody listens. What is on the target already is not written a second time, what has
// gone is removed, and in the end both sides are equal.
func TestKilledWhileItScans(t *testing.T) {
	const keys, slow = 12_000, "6000"
	src, dst := redistest.Start(t), redistest.Start(t)
	direct := src.Client(0)
	fill(t, direct, "k", keys)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0", extra: []string{"--sync.keys_per_second", slow}})
	half := func(s migration.Status) bool {
		return len(s.Databases) == 1 && !s.Databases[0].Done && s.Databases[0].Scanned > keys/3
	}
	away := 0
	// whileAway changes a hundred keys of each kind.
	whileAway := func() {
		for i := range 100 {
			n := away*300 + i
			do(t, direct, "DEL", fmt.Sprintf("k:%d", n))
			do(t, direct, "SET", fmt.Sprintf("k:%d", n+100), "changed")
			do(t, direct, "EXPIRE", fmt.Sprintf("k:%d", n+200), 3600+n)
			do(t, direct, "SET", fmt.Sprintf("new:%d", n), "v")
		}
		away++
	}

	c.start("")
	c.await("the first scan is under way", half)
	c.kill()
	have := int(dst.Client(0).DBSize(t.Context()).Val())
	whileAway()
	do(t, dst.Client(0), "CONFIG", "RESETSTAT")
	c.start("")
	c.await("the second scan is under way", half)
	c.kill()
	whileAway()
	c.start("")
	s := c.awaitReady()
	equalSides(t, src, dst, "0=0")
	n := written(t, dst.Client(0))
	t.Logf("of %d keys %d were there at the first kill; %d were written after it; %d equal in the last scan", keys, have, n, s.Databases[0].Equal)
	if most := keys - have + keys/4; n > most {
		t.Errorf("%d keys were written after a restart at %d of %d", n, have, keys)
	}

	do(t, dst.Client(0), "CONFIG", "RESETSTAT")
	c.kill()
	whileAway()
	c.start("")
	s = c.awaitReady()
	equalSides(t, src, dst, "0=0")
	n = written(t, dst.Client(0))
	t.Logf("400 changes while it was away: %d written, %d equal", n, s.Databases[0].Equal)
	if n > keys/4 || s.Databases[0].Equal < keys/2 {
		t.Errorf("%d keys were written, %d found equal", n, s.Databases[0].Equal)
	}
}

// written counts the commands by which small keys are written and removed.
func written(t *testing.T, c *redis.Client) (n int) {
	t.Helper()
	text := must[string](t)(c.Info(t.Context(), "commandstats").Result())
	for line := range strings.Lines(text) {
		for _, name := range []string{"restore", "set", "unlink", "del"} {
			var calls int
			if _, err := fmt.Sscanf(line, "cmdstat_"+name+":calls=%d", &calls); err == nil {
				n += calls
			}
		}
	}
	return n
}
