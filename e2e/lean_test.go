package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
)

// leanWithout are the commands that a server may forbid: for each there is another
// way.
var leanWithout = []string{"dump", "pexpiretime", "memory", "object", "unlink", "smismember", "hmget", "zmscore"}

// TestServersThatForbid moves live data of every kind there and back between two
// servers that forbid commands, by renaming them and by an ACL rule. verify finds
// both sides equal before the cutover and after it.
//
// LEAN_SERVER names another server program than the usual one.
func TestServersThatForbid(t *testing.T) {
	if testing.Short() {
		t.Skip("by type, the race detector's pace is below the writers'")
	}
	renamed := []redistest.Option{}
	rules := "mover on >" + password + " ~* &* +@all"
	plain := startLean(t).Client(0)
	for _, command := range leanWithout {
		if !knows(t.Context(), plain, command) {
			continue // and can be forbidden by nobody
		}
		renamed = append(renamed, redistest.WithRenamed(command, ""))
		rules += " -" + command
	}
	t.Run("rename-command", func(t *testing.T) {
		t.Parallel()
		moveLean(t, renamed, "")
	})
	t.Run("ACL", func(t *testing.T) {
		t.Parallel()
		if os.Getenv("LEAN_SERVER") != "" && !hasSelectors(t, startLean(t)) {
			t.Skip("this server's fence spares nobody")
		}
		moveLean(t, []redistest.Option{redistest.WithACL(rules)}, "mover:"+password+"@")
	})
}

func startLean(t *testing.T, opts ...redistest.Option) *redistest.Server {
	if path := os.Getenv("LEAN_SERVER"); path != "" {
		opts = append(opts, redistest.WithBinary(path))
	}
	return redistest.Start(t, opts...)
}

// moveLean makes a cutover and a rollback. login is who the sidecar is in the URLs.
func moveLean(t *testing.T, opts []redistest.Option, login string) {
	src, dst := startLean(t, opts...), startLean(t, opts...)
	url := func(s *redistest.Server) string { return strings.Replace(s.URL(0), "redis://", "redis://"+login, 1) }
	const mapped = "0=0,3=5"
	extra := []string{"--verify.rate", "500"}
	if login != "" {
		extra = append(extra, "--cutover.create_user=false")
	}
	text, code := verb(t, append([]string{"check", "--source", url(src), "--target", url(dst), "--map", mapped}, extra...)...)
	if code != 0 || !strings.Contains(unwrapped(text), "DUMP is not permitted") {
		t.Errorf("check ended with status %d:\n%s", code, text)
	}
	far := time.Now().Add(3 * time.Hour).UnixMilli()
	able := abilities(t.Context(), src.Client(0), dst.Client(0))
	for _, db := range []int{0, 3} {
		plantZoo(t, src.Client(db), able, far)
		do(t, src.Client(db), "SET", "big", strings.Repeat("big ", 1<<19))
		for range 40 {
			do(t, src.Client(db), "RPUSH", "big list", strings.Repeat("x", 1000))
			do(t, src.Client(db), "EVAL", "for i = 1, 500 do redis.call('HSET', KEYS[1], ARGV[1] .. i, i) end", 1, "big hash", time.Now().UnixNano())
		}
	}
	c := newSidecar(t, setup{source: url(src), target: url(dst), dbmap: mapped, extra: extra})
	c.start("")
	c.await("clients are served", func(s migration.Status) bool { return s.Phase != migration.Idle })
	through := startLoad(t, history.Config{Addr: c.addr, Databases: []int{0, 3}, Writers: 2, Prefix: "app", MaxRate: 100, Protocol: 2})
	z := &zookeepers{tb: t, addr: c.addr, able: able, far: far}
	z.begin()
	c.awaitScanned()
	z.end()
	c.awaitReady()
	if text, code := verb(t, "verify", "--admin", c.adminAddress()); code != 0 {
		t.Errorf("verify ended with status %d:\n%s", code, text)
	}
	at, mapDB := src, func(db int) int { return db }
	for i, turn := range []func() (migration.Report, error){c.cutover, c.rollback} {
		c.awaitReady()
		r, err := turn()
		if err != nil {
			t.Fatalf("switch %d: %v", i, err)
		}
		t.Logf("%s→%s: held %.1f ms, fence %s", r.From, r.To, r.Held, r.Fence)
		if at, mapDB = dst, mapping(mapped); i == 1 {
			at, mapDB = src, func(db int) int { return db }
		}
		if r.Fence == migration.FenceReplicas {
			t.Log("the server that was left can only be fenced against ourselves too: no way back")
			break
		}
		z.begin()
		c.awaitScanned()
		z.end()
		c.awaitReady()
		if text, code := verb(t, "verify", "--admin", c.adminAddress()); code != 0 {
			t.Errorf("verify after switch %d ended with status %d:\n%s", i, code, text)
		}
	}
	through.mustHold(t, at.Addr(), mapDB)
	if st, err := c.status(); err != nil || st.Verify.Background.Alarms > 0 {
		t.Errorf("%d alarms, the last %q; %v", st.Verify.Background.Alarms, st.Verify.Background.Alarm, err)
	}
}

// awaitScanned waits until the mirror that runs has been through all keys, and has
// copied some changes.
func (c *sidecar) awaitScanned() {
	c.tb.Helper()
	first := int64(-1)
	c.await("all is scanned, and changes are copied", func(s migration.Status) bool {
		n, done := int64(0), len(s.Databases) > 0
		for _, d := range s.Databases {
			n, done = n+d.Copied, done && d.Done
		}
		if done && first < 0 {
			first = n
		}
		return done && n > first+200
	})
}
