package alerts

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// calm starts a sidecar between two servers and waits until no alert fires.
func calm(t *testing.T, src, dst *redistest.Server, extra ...string) *sidecar {
	t.Helper()
	s := newSidecar(t, src, dst, extra...)
	s.start()
	s.awaitReady()
	s.quiet()
	return s
}

func TestDown(t *testing.T) {
	s := calm(t, redistest.Start(t), redistest.Start(t))
	s.end(syscall.SIGKILL)
	if said := s.await("CrossfadeDown"); !strings.Contains(said["CrossfadeDown"], "The sidecar "+s.address+" cannot be reached.") {
		t.Errorf("it says %q", said)
	}
	s.start()
	s.awaitReady()
	s.quiet()
}

// TestFeed: notifications are switched off, and nobody may switch them on.
func TestFeed(t *testing.T) {
	on := redistest.WithConfig("notify-keyspace-events", "AKE")
	src := redistest.Start(t, on)
	s := calm(t, src, redistest.Start(t, on), "--sync.feed", "notifications", "--sync.set_notifications=false")
	must(t, src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "").Err())
	s.await("CrossfadeFeedSilent", "CrossfadeGap", "CrossfadeNotReady")
	must(t, src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "AKE").Err())
	s.awaitReady()
	s.quiet()
}

// TestTargetDies in the middle of the first copy, and comes back without what it had.
func TestTargetDies(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	fill(t, src, 3000)
	s := newSidecar(t, src, dst, "--sync.keys_per_second", "100")
	s.start()
	s.awaits("it copies", func(st migration.Status) bool { return st.Phase == migration.Copying && st.Databases[0].Scanned > 0 })
	dst.Kill()
	s.await("CrossfadeCopyErrors", "CrossfadeLag", "CrossfadeCopyStuck")
	must(t, dst.Restart(t.Context()))
	unbound := int64(0)
	_, err := s.door.Throttle(t.Context(), admin.ThrottleRequest{Keys: &unbound})
	must(t, err)
	s.awaitReady()
	s.quiet()
}

func fill(t *testing.T, server *redistest.Server, n int) {
	t.Helper()
	_, err := server.Client(0).Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range n {
			p.Set(t.Context(), fmt.Sprint("key:", i), i, 0)
		}
		return nil
	})
	must(t, err)
}

// TestSourceDies while clients want something of it.
func TestSourceDies(t *testing.T) {
	src := redistest.Start(t)
	s := calm(t, src, redistest.Start(t))
	wants := client(t, s.addr)
	end := keeps(t, func(ctx context.Context) error { return wants.Get(ctx, "k").Err() })
	src.Kill()
	if said := s.await("CrossfadeServerUnreachable", "CrossfadeFeedSilent"); !strings.Contains(said["CrossfadeServerUnreachable"], "to the source") {
		t.Errorf("it says %q", said)
	}
	must(t, src.Restart(t.Context()))
	end()
	s.awaitReady()
	s.quiet()
}

// TestPastTheProxy: somebody writes to the source, then is still there after the cutover,
// and then the source forgets its fence.
func TestPastTheProxy(t *testing.T) {
	src := redistest.Start(t)
	s := calm(t, src, redistest.Start(t))
	direct := client(t, src.Addr())
	end := keeps(t, func(ctx context.Context) error { return direct.Incr(ctx, "direct").Err() })
	s.await("CrossfadeWriterPastProxy")
	end()
	s.quiet()
	_, err := s.door.Cutover(t.Context(), admin.SwitchRequest{})
	must(t, err)
	end = keeps(t, func(ctx context.Context) error { return direct.Incr(ctx, "direct").Err() })
	s.await("CrossfadeStrays")
	end()
	must(t, direct.Close())
	s.awaitReady()
	s.quiet()
	must(t, src.Restart(t.Context()))
	s.await("CrossfadeFenceLost")
	s.awaitReady()
	s.quiet()
}

// TestReplicaWithoutFence: one that knows no ACL.
func TestReplicaWithoutFence(t *testing.T) {
	src := redistest.Start(t)
	replica := redistest.Start(t, redistest.WithRenamed("ACL", ""))
	must(t, replica.Client(0).SlaveOf(t.Context(), "127.0.0.1", fmt.Sprint(src.Port())).Err())
	redistest.Eventually(t, 30*time.Second, func() bool {
		return strings.Contains(src.Client(0).Info(t.Context(), "replication").Val(), "state=online")
	}, "the replica follows")
	s := calm(t, src, redistest.Start(t))
	_, err := s.door.Cutover(t.Context(), admin.SwitchRequest{})
	must(t, err)
	s.await("CrossfadeReplicaNotFenced")
	s.awaitReady()
	_, err = s.door.Rollback(t.Context(), admin.SwitchRequest{})
	must(t, err)
	s.awaitReady()
	s.quiet()
}

// TestReplies: the source has no room, and there are too many clients.
func TestReplies(t *testing.T) {
	src := redistest.Start(t)
	s := calm(t, src, redistest.Start(t), "--proxy.max_clients", "2")
	one := client(t, s.addr)
	must(t, src.Client(0).ConfigSet(t.Context(), "maxmemory", "1mb").Err())
	end := keeps(t, func(ctx context.Context) error { return one.Set(ctx, "k", "v", 0).Err() })
	s.await("CrossfadeErrorReplies")
	end()
	must(t, src.Client(0).ConfigSet(t.Context(), "maxmemory", "0").Err())
	for range 3 {
		more := client(t, s.addr)
		_ = more.Ping(t.Context()).Err()
	}
	s.await("CrossfadeClientsClosed")
	s.awaitReady()
	s.quiet()
}

// TestDifferences: somebody writes to the target.
func TestDifferences(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	fill(t, src, 10)
	s := calm(t, src, dst)
	s.awaits("it compares", func(st migration.Status) bool { return st.Verify.Background.Walks > 0 })
	must(t, dst.Client(0).Set(t.Context(), "key:3", "another", 0).Err())
	s.await("CrossfadeDifferences")
	s.quiet()
}

// TestStale: nothing is compared while the target says nothing.
func TestStale(t *testing.T) {
	dst := redistest.Start(t)
	s := calm(t, redistest.Start(t), dst)
	s.awaits("it compares", func(st migration.Status) bool { return st.Verify.Background.Walks > 0 })
	must(t, dst.Stop())
	s.await("CrossfadeVerificationStale")
	must(t, dst.Cont())
	s.awaitReady()
	s.quiet()
}

// TestBlocked: the target has keys of others.
func TestBlocked(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	must(t, dst.Client(0).Set(t.Context(), "foreign", "key", 0).Err())
	s := newSidecar(t, src, dst)
	s.start()
	s.await("CrossfadeBlocked")
	must(t, dst.Client(0).FlushAll(t.Context()).Err())
	s.awaitReady()
	s.quiet()
}

// TestKeysNotCopied: a module's type that the target does not have.
func TestKeysNotCopied(t *testing.T) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler, for the module")
	}
	module := filepath.Join(t.TempDir(), "opaque.so")
	if out, err := exec.Command(compiler, "-shared", "-fPIC", "-o", module, "testdata/opaque.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	src := redistest.Start(t, redistest.WithConfig("enable-module-command", "yes"))
	s := calm(t, src, redistest.Start(t))
	must(t, src.Client(0).Do(t.Context(), "MODULE", "LOAD", module).Err())
	must(t, src.Client(0).Do(t.Context(), "OPAQUE.SET", "odd").Err())
	s.await("CrossfadeKeysNotCopied", "CrossfadeNotReady")
	must(t, src.Client(0).Del(t.Context(), "odd").Err())
	s.awaitReady()
	s.quiet()
}

// TestSwitches: one hangs under its hold until it is taken back for that, one is aborted.
func TestSwitches(t *testing.T) {
	s := newSidecar(t, redistest.Start(t), redistest.Start(t), "--cutover.max_stall", "500ms")
	hold, prepared := filepath.Join(t.TempDir(), "hold"), filepath.Join(t.TempDir(), "prepared")
	s.start("cutover.hold:after#1=wait:"+hold, "cutover.prepare:after#2=wait:"+prepared)
	s.awaitReady()
	s.quiet()
	cutover := func() <-chan error {
		answer := make(chan error, 1)
		go func() {
			_, err := s.door.Cutover(t.Context(), admin.SwitchRequest{})
			answer <- err
		}()
		return answer
	}
	answer := cutover()
	s.await("CrossfadeSwitchStuck")
	must(t, os.Remove(hold))
	if err := taken(t, answer); err == nil {
		t.Fatal("a switch whose budget is used up was made")
	}
	if said := s.await("CrossfadeStallBudgetMissed"); !strings.Contains(said["CrossfadeStallBudgetMissed"], "A cutover of") {
		t.Errorf("it says %q", said)
	}
	s.awaitReady()
	s.quiet()

	answer = cutover()
	redistest.Eventually(t, 30*time.Second, func() error {
		_, err := os.Stat(prepared)
		return err
	}, "the attempt is prepared")
	_, err := s.door.Abort(t.Context())
	must(t, err)
	must(t, os.Remove(prepared))
	if err := taken(t, answer); err == nil {
		t.Fatal("a switch that was aborted was made")
	}
	s.await("CrossfadeSwitchFailed")
	s.awaitReady()
	s.quiet()
}

// TestNotServing: the sidecar dies in the middle of a switch, and the target is away when
// it is back.
func TestNotServing(t *testing.T) {
	dst := redistest.Start(t)
	s := newSidecar(t, redistest.Start(t), dst)
	s.start("cutover.commit:before=kill")
	s.awaitReady()
	_, err := s.door.Cutover(t.Context(), admin.SwitchRequest{})
	if err == nil {
		t.Fatal("the switch was made")
	}
	s.end(syscall.SIGKILL)
	must(t, dst.Stop())
	s.start()
	s.await("CrossfadeNotServing", "CrossfadeSwitchStuck")
	must(t, dst.Cont())
	s.awaits("it is on the target", func(st migration.Status) bool { return st.Ready && st.Phase == migration.ReverseTailing })
	s.quiet()
}
