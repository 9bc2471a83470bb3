package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

const (
	bypassMap   = "0=1,3=0"
	bypassReady = 5 * time.Second // cutover.wait_ready: what can never be is not waited for
)

// bypass is a migration with writers through the proxy and writers past it, its
// notifications 20 ms late: what a writer past the proxy is told last before the
// fence is what a fence without its barrier would lose.
type bypass struct {
	src, dst        *redistest.Server
	c               *sidecar
	through, direct *load
	killed          bool // the sidecar was: clients of the proxy have seen it
}

func newBypass(t *testing.T, source ...redistest.Option) *bypass {
	t.Helper()
	return newBypassWith(t, "", source...)
}

func newBypassWith(t *testing.T, failpoints string, source ...redistest.Option) *bypass {
	t.Helper()
	b := &bypass{src: redistest.Start(t, source...), dst: redistest.Start(t)}
	feed := redistest.NewLink(t, b.src.Addr())
	feed.SetDelayDown(20 * time.Millisecond)
	b.c = newSidecar(t, setup{source: b.src.URL(0), target: b.dst.URL(0), dbmap: bypassMap, extra: []string{"--cutover.wait_ready", bypassReady.String()}})
	b.c.start(fmt.Sprintf("%s,mirror.feed.%s=%s", failpoints, router.Source, feed.Addr()))
	b.c.awaitReady()
	b.through = startLoad(t, history.Config{Addr: b.c.addr, Databases: []int{0, 3}, Writers: 3, Prefix: "app", MaxRate: 300})
	b.direct = startLoad(t, history.Config{Addr: b.src.Addr(), Databases: []int{0, 3}, Writers: 3, Prefix: "direct", MaxRate: 500})
	moreAcked(t, b.through, 100)
	moreAcked(t, b.direct, 100)
	return b
}

func moreAcked(t *testing.T, l *load, n uint64) {
	t.Helper()
	before := l.h.Stats().Acked
	redistest.Eventually(t, 30*time.Second, func() error {
		if s := l.h.Stats(); s.Acked < before+n {
			return fmt.Errorf("%d writes acknowledged since, want %d; last error: %s", s.Acked-before, n, s.LastError)
		}
		return nil
	}, "the writers go on")
}

// refusedAs checks that whoever writes to the source past the proxy is refused
// with code, on old connections and on new ones, and nothing of it happens.
func (b *bypass) refusedAs(t *testing.T, code string) {
	t.Helper()
	before := b.direct.h.Stats()
	redistest.Eventually(t, 30*time.Second, func() error {
		s := b.direct.h.Stats()
		if s.Refused < before.Refused+50 || !strings.HasPrefix(s.LastError, code) {
			return fmt.Errorf("%d refused since, last error: %s", s.Refused-before.Refused, s.LastError)
		}
		return nil
	}, "the writers past the proxy are refused with %s", code)
	acked := b.direct.h.Stats().Acked
	client := redis.NewClient(redistest.Options(b.src.Addr(), 0))
	defer func() { _ = client.Close() }()
	for range 20 {
		if err := client.Set(t.Context(), "too late", "", 0).Err(); !redis.HasErrorPrefix(err, code) {
			t.Fatalf("a new writer past the proxy was told %v, want %s", err, code)
		}
	}
	if now := b.direct.h.Stats().Acked; now != acked {
		t.Errorf("%d writes past the proxy were acknowledged while the fence is up", now-acked)
	}
}

// mustHoldOnTarget ends the writers and looks for everything acknowledged.
func (b *bypass) mustHoldOnTarget(t *testing.T) {
	t.Helper()
	for who, l := range map[string]*load{"through the proxy": b.through, "past the proxy": b.direct} {
		t.Logf("%s: %s", who, l.mustHold(t, b.dst.Addr(), mapping(bypassMap)))
	}
	if s := b.through.h.Stats(); s.Errors > 0 && !b.killed {
		t.Errorf("clients of the proxy saw %d errors, the last: %s", s.Errors, s.LastError)
	}
}

func (b *bypass) mustSwitch(t *testing.T, to router.Side, fence migration.FenceLevel) {
	t.Helper()
	verb := b.c.cutover
	if to == router.Source {
		verb = b.c.rollback
	}
	r, err := verb()
	if err != nil {
		t.Fatalf("the switch to the %s: %v", to, err)
	}
	if r.Fence != fence {
		t.Errorf("the fence was %s, want %s", r.Fence, fence)
	}
}

// wasRefused checks for a refusal by the admin API and returns its reasons.
func wasRefused(t *testing.T, err error) string {
	t.Helper()
	var refused *admin.Error
	if !errors.As(err, &refused) || refused.Code != http.StatusConflict {
		t.Fatalf("answered with %v, want a refusal (409)", err)
	}
	return strings.Join(append(refused.Reasons, refused.Message), "\n")
}

// TestBypassACL has writers past the proxy through a cutover, a rollback and
// another cutover, with the fence that ACL makes.
func TestBypassACL(t *testing.T) {
	b := newBypass(t)
	b.mustSwitch(t, router.Target, migration.FenceACL)
	b.refusedAs(t, "NOPERM")
	moreAcked(t, b.through, 100)
	b.c.awaitReady()
	b.mustSwitch(t, router.Source, migration.FenceACL)
	moreAcked(t, b.direct, 100) // they may write again
	b.c.awaitReady()
	b.mustSwitch(t, router.Target, migration.FenceACL)
	b.refusedAs(t, "NOPERM")
	b.mustHoldOnTarget(t)
	b.c.end(false)
	equalSides(t, b.src, b.dst, bypassMap)
}

// TestBypassMinReplicas has a source without ACL: min-replicas-to-write is the
// fence then. It stops ourselves as well, so that there is no way back, and the
// operator is told at once.
func TestBypassMinReplicas(t *testing.T) {
	b := newBypass(t, redistest.WithRenamed("ACL", ""))
	b.mustSwitch(t, router.Target, migration.FenceReplicas)
	b.refusedAs(t, "NOREPLICAS")
	moreAcked(t, b.through, 100)
	b.hasNoWayBack(t)
	b.refusedAs(t, "NOREPLICAS") // the attempt has opened nothing
	moreAcked(t, b.through, 100)
	b.mustHoldOnTarget(t)
	b.completesOneWay(t)
}

// TestBypassMinReplicasKilled kills the sidecar where the switch is decided: with
// that fence nothing can be written on the source any more, and it must go on
// without.
func TestBypassMinReplicasKilled(t *testing.T) {
	for _, point := range []string{"journal:after", "commit:after", "after:after"} {
		t.Run(point, func(t *testing.T) {
			b := newBypassWith(t, "cutover."+point+"=kill", redistest.WithRenamed("ACL", ""))
			if _, err := b.c.cutover(); err == nil {
				t.Fatal("the cutover went through although the process was to die in it")
			}
			_ = b.c.awaitExit(20 * time.Second)
			b.killed = true
			b.c.start("")
			moreAcked(t, b.through, 100)
			b.refusedAs(t, "NOREPLICAS")
			b.hasNoWayBack(t)
			b.mustHoldOnTarget(t)
			b.completesOneWay(t)
		})
	}
}

// hasNoWayBack checks what the operator is told after a cutover with F2.
func (b *bypass) hasNoWayBack(t *testing.T) {
	t.Helper()
	s := b.c.await("REVERSE_LOST", func(s migration.Status) bool { return s.Phase == migration.ReverseLost })
	if reasons := strings.Join(s.Reasons, "\n"); s.Ready || s.Side != router.Target || !strings.Contains(reasons, "no way back") || !strings.Contains(reasons, "F2") {
		t.Errorf("side %s, ready %v, reasons %q: want it said that there is no way back, and why", s.Side, s.Ready, s.Reasons)
	}
	began := time.Now()
	_, err := b.c.rollback()
	if text := wasRefused(t, err); !strings.Contains(text, "no way back") || !strings.Contains(text, "min-replicas-to-write") {
		t.Errorf("a rollback is refused without saying why: %s", text)
	}
	if took := time.Since(began); took > bypassReady {
		t.Errorf("it took %v to refuse a rollback that cannot be", took)
	}
}

// completesOneWay checks that the end takes the fence and its setting away.
func (b *bypass) completesOneWay(t *testing.T) {
	t.Helper()
	if _, err := b.c.admin.Complete(t.Context(), admin.CompleteRequest{}); err != nil {
		t.Fatal(err)
	}
	got, err := b.src.Client(0).ConfigGet(t.Context(), "min-replicas-*").Result()
	if err != nil || got["min-replicas-to-write"] != "0" || got["min-replicas-max-lag"] != "10" {
		t.Errorf("after complete: %v, %v", got, err)
	}
	if err := b.src.Client(0).Set(t.Context(), "free again", "", 0).Err(); err != nil {
		t.Errorf("the source after complete: %v", err)
	}
}

// TestBypassNoFence has a source without ACL and without CONFIG, so that nobody
// who writes past the proxy can be stopped: while there is somebody, there is no
// cutover.
func TestBypassNoFence(t *testing.T) {
	b := newBypass(t, redistest.WithRenamed("ACL", ""), redistest.WithRenamed("CONFIG", ""), redistest.WithConfig("notify-keyspace-events", "KEA"))
	_, err := b.c.cutover()
	if text := wasRefused(t, err); !strings.Contains(text, "F1") || !strings.Contains(text, "past the proxy") {
		t.Errorf("the refusal does not say why: %s", text)
	}
	if s := must[migration.Status](t)(b.c.status()); s.Side != router.Source {
		t.Fatalf("the applications are on the %s", s.Side)
	}
	moreAcked(t, b.through, 50) // nobody was held or refused
	moreAcked(t, b.direct, 50)
	if s := b.direct.h.Stats(); s.Errors > 0 {
		t.Errorf("the writers past the proxy saw %d errors, the last: %s", s.Errors, s.LastError)
	}

	// When they are gone, it goes.
	if err := b.direct.end(); err != nil {
		t.Fatal(err)
	}
	b.c.awaitReady()
	b.mustSwitch(t, router.Target, migration.FenceKey)
	moreAcked(t, b.through, 100)
	b.c.awaitReady()
	b.mustHoldOnTarget(t)
	b.through.begin()
	b.mustSwitch(t, router.Source, migration.FenceACL) // the target has ACL
	moreAcked(t, b.through, 100)
	b.through.mustHold(t, b.src.Addr(), func(db int) int { return db })
	b.direct.mustHold(t, b.src.Addr(), func(db int) int { return db })
}

// TestStraysAreNamed: who stays on the server that was left, and who only comes to write,
// is in the status with its name, user and library, for as long as it does.
func TestStraysAreNamed(t *testing.T) {
	t.Parallel()
	p := newPair(t, "")
	stays := redis.NewClient(redistest.Options(p.src.Addr(), 0))
	t.Cleanup(func() { _ = stays.Close() })
	if st, err := p.c.status(); err != nil || len(st.Strays) > 0 {
		t.Fatalf("before the switch there are strays %q: %v", st.Strays, err)
	}
	if _, err := p.c.cutover(); err != nil {
		t.Fatal(err)
	}
	one := stays.Conn()
	t.Cleanup(func() { _ = one.Close() })
	do := func(args ...any) error { return one.Do(t.Context(), args...).Err() }
	if err := do("CLIENT", "SETNAME", "cron-job"); err != nil {
		t.Fatal(err)
	}
	if err := do("SET", "k", "v"); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Errorf("a write to the source: %v", err)
	}
	named := func(name string) func(migration.Status) bool {
		return func(s migration.Status) bool {
			text := strings.Join(s.Strays, "\n")
			return strings.Contains(text, `name "`+name+`" user "default"`) && strings.Contains(text, "127.0.0.1:")
		}
	}
	p.c.await("who stays is named", named("cron-job"))
	redistest.Eventually(t, 30*time.Second, func() error { // it is hardly ever there when somebody looks
		o := redistest.Options(p.src.Addr(), 0)
		o.ClientName = "comes-and-goes"
		c := redis.NewClient(o)
		_ = c.Set(t.Context(), "k", "v", 0).Err()
		_ = c.Close()
		st, err := p.c.status()
		if err == nil && !named("comes-and-goes")(st) {
			err = fmt.Errorf("the strays are %q", st.Strays)
		}
		return err
	}, "who comes and goes is named")
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	_ = stays.Close()
	p.c.await("nobody is there any more", func(s migration.Status) bool { return len(s.Strays) == 0 })
	p.c.end(false)
}
