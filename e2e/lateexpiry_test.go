package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// TestLateExpiryAfterASwitch: keys expire, the applications write some of them anew where
// they are now, and only then the server that was left notices that its own have expired,
// and says so to whoever listens. RedisShake deletes the new ones then (its issue 943).
func TestLateExpiryAfterASwitch(t *testing.T) {
	for _, left := range []router.Side{router.Source, router.Target} {
		t.Run("the "+left.String()+" is late", func(t *testing.T) {
			t.Parallel()
			lateExpiry(t, left)
		})
	}
}

// TestLateExpiryWhileCopying: the source notices only when somebody asks that keys have
// expired which are gone on the target already, some of them by writing them anew.
func TestLateExpiryWhileCopying(t *testing.T) {
	t.Parallel()
	const n = 900
	src, dst := redistest.Start(t, redistest.WithConfig("enable-debug-command", "yes")), redistest.Start(t)
	s := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: peersMap})
	s.start("")
	s.awaitReady()
	app := redis.NewClient(redistest.Options(s.addr, 3))
	t.Cleanup(func() { _ = app.Close() })
	direct, copied := src.Client(3), dst.Client(5)
	do(t, direct, "DEBUG", "SET-ACTIVE-EXPIRE", 0)
	keys := make([]string, n)
	pipe := app.Pipeline()
	for i := range keys {
		keys[i] = fmt.Sprint("late:", i)
		pipe.Set(t.Context(), keys[i], "old", 3*time.Second)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 20*time.Second, func() bool { return copied.Exists(t.Context(), keys...).Val() == n }, "the keys are copied")
	redistest.Eventually(t, 20*time.Second, func() bool { return copied.Exists(t.Context(), keys...).Val() == 0 }, "they expire on the target")
	if have := direct.DBSize(t.Context()).Val(); have < n {
		t.Fatalf("the source has noticed already: %d keys", have)
	}
	const renewed = n / 3
	beside := direct.Pipeline()
	for i, key := range keys {
		way := []redis.Pipeliner{pipe, beside}[i%2]
		if i < renewed {
			way.Set(t.Context(), key, "new", 0)
		} else if i < 2*renewed {
			way.Exists(t.Context(), key) // the rest is not asked for
		}
	}
	for _, way := range []redis.Pipeliner{pipe, beside} {
		if _, err := way.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	do(t, direct, "DEBUG", "SET-ACTIVE-EXPIRE", 1)
	redistest.Eventually(t, 20*time.Second, func() bool { return direct.DBSize(t.Context()).Val() <= renewed }, "the source notices the rest")
	s.await("in step", func(st migration.Status) bool { return st.Ready && st.Dirty == 0 })
	mustBeRenewed(t, copied, keys, renewed)
	equalSides(t, src, dst, peersMap)
}

func lateExpiry(t *testing.T, left router.Side) {
	t.Helper()
	const user, secret, n = "mover", "secret", 1000
	opts := []redistest.Option{redistest.WithACL(user + " on >" + secret + " ~* &* +@all"), redistest.WithConfig("enable-debug-command", "yes")}
	s := newServers(t, opts, opts)
	url := func(l *redistest.Link) string { return fmt.Sprintf("redis://%s:%s@%s", user, secret, l.Addr()) }
	s.c = newSidecar(t, setup{source: url(s.links[router.Source]), target: url(s.links[router.Target]), dbmap: crashMap, extra: []string{"--cutover.create_user=false"}})
	s.c.start(s.ledApart())
	s.c.awaitReady()
	if left == router.Target {
		s.mustSwitch(router.Source)
		s.c.awaitReady()
	}
	app := redis.NewClient(redistest.Options(s.c.addr, 0))
	t.Cleanup(func() { _ = app.Close() })
	server := []*redistest.Server{s.src, s.dst}
	there := func(side router.Side) *redis.Client { return server[side].Client(mapping(crashMap)(0) * int(side)) }

	do(t, there(left), "DEBUG", "SET-ACTIVE-EXPIRE", 0)
	keys := make([]string, n)
	pipe := app.Pipeline()
	for i := range keys {
		keys[i] = fmt.Sprint("late:", i)
		pipe.Set(t.Context(), keys[i], "old", 8*time.Second)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mustSwitch(left)
	// What is renewed must not come back before the server that was left has noticed. Its
	// notifications go another way, and are heard by all who want to.
	away(s.links[left], true)
	exist := func() int64 { return there(left.Other()).Exists(t.Context(), keys...).Val() }
	if have := exist(); have != n {
		t.Fatalf("%d of %d keys are left after the switch: it took longer than they live", have, n)
	}
	redistest.Eventually(t, 30*time.Second, func() bool { return exist() == 0 }, "the keys expire where the applications are")
	renewed := n / 2
	for _, key := range keys[:renewed] {
		pipe.Set(t.Context(), key, "new", 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	hand := server[left].ClientAs(user, secret, 0) // the others are behind the fence
	before := expiredKeys(t, hand)
	do(t, hand, "DEBUG", "SET-ACTIVE-EXPIRE", 1)
	redistest.Eventually(t, 30*time.Second, func() error {
		if late := expiredKeys(t, hand) - before; late < n {
			return fmt.Errorf("%d keys", late)
		}
		return nil
	}, "the %s notices", left)
	if err := hand.Close(); err != nil {
		t.Fatal(err)
	}
	away(s.links[left], false)

	s.c.await("all that was renewed is copied", func(st migration.Status) bool { return st.Ready && st.Dirty == 0 })
	mustBeRenewed(t, there(left.Other()), keys, renewed)
	s.mustSwitch(left.Other())
	mustBeRenewed(t, there(left), keys, renewed)
	s.c.end(left == router.Source)
	equalSides(t, s.src, s.dst, crashMap)
}

// expiredKeys is how many keys a server has removed because their time had passed.
func expiredKeys(t *testing.T, c *redis.Client) int64 {
	t.Helper()
	text := must[string](t)(c.Info(t.Context(), "stats").Result())
	var n int64
	if _, line, found := strings.Cut(text, "\r\nexpired_keys:"); !found || must[int](t)(fmt.Sscan(line, &n)) != 1 {
		t.Fatal("INFO stats says no expired_keys")
	}
	return n
}

// mustBeRenewed fails unless the first n keys are new, and the others are gone.
func mustBeRenewed(t *testing.T, c *redis.Client, keys []string, n int) {
	t.Helper()
	for i, v := range must[[]any](t)(c.MGet(t.Context(), keys...).Result()) {
		if i < n && v != "new" || i >= n && v != nil {
			t.Fatalf("%s is %v; the first %d were renewed, the others expired", keys[i], v, n)
		}
	}
}
