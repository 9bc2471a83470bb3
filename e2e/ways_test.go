package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// pair is two servers and a sidecar; the target is reached by a link.
type pair struct {
	src, dst *redistest.Server
	link     *redistest.Link
	c        *sidecar
}

func newPair(t *testing.T, failpoints string, extra ...string) *pair {
	t.Helper()
	p := &pair{src: redistest.Start(t), dst: redistest.Start(t)}
	p.link = redistest.NewLink(t, p.dst.Addr())
	p.c = newSidecar(t, setup{source: p.src.URL(0), target: "redis://" + p.link.Addr(), dbmap: "0=0", extra: extra})
	p.c.start(failpoints)
	p.c.awaitReady()
	return p
}

// leave asks for a switch and goes, as the CLI does when it is interrupted.
func (p *pair) leave(t *testing.T, o admin.SwitchRequest) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = p.c.admin.Cutover(ctx, o)
	}()
	p.c.await("waiting", func(s migration.Status) bool { return s.Waiting != nil })
	cancel()
	<-gone
}

func (p *pair) awaitWaitingFor(t *testing.T, text string) migration.Status {
	t.Helper()
	return p.c.await("waiting for "+text, func(s migration.Status) bool {
		return s.Side == router.Source && s.Waiting != nil && strings.Contains(strings.Join(s.Waiting.For, "; "), text)
	})
}

func (p *pair) awaitSide(side router.Side) migration.Status {
	p.c.tb.Helper()
	return p.c.await("the "+side.String(), func(s migration.Status) bool { return s.Side == side && s.Waiting == nil && s.Ready })
}

// TestCutoverWhenReady: it waits as long as the copy is behind, and then switches,
// although who asked for it has gone.
func TestCutoverWhenReady(t *testing.T) {
	p := newPair(t, "")
	p.link.SetDelay(400 * time.Millisecond)
	p.c.await("a lag", func(s migration.Status) bool { return s.LagMS > 500 })
	p.leave(t, admin.SwitchRequest{WhenReady: true, MaxLag: "500ms", Timeout: "5m"})
	st := p.awaitWaitingFor(t, "the limit (cutover.max_lag) 500ms")
	if w := st.Waiting; w.Verb != "cutover" || w.MaxLag != 500 || w.Until == nil || w.At != nil || w.Retries != 3 {
		t.Errorf("the status: %+v", w)
	}
	var answered *admin.Error
	if _, err := p.c.cutover(); !errors.As(err, &answered) || answered.Code != 409 || !strings.Contains(err.Error(), "waits for its moment already") {
		t.Errorf("a second cutover: %v", err)
	}
	if _, err := p.c.admin.Complete(t.Context(), admin.CompleteRequest{StayOnSource: true}); !errors.As(err, &answered) || !strings.Contains(err.Error(), "waits for its moment") {
		t.Errorf("complete: %v", err)
	}
	p.link.SetDelay(0)
	st = p.awaitSide(router.Target)
	if st.Dropped != nil || st.LastCutover == nil || !st.LastCutover.OK {
		t.Errorf("afterwards: %+v, %+v", st.Dropped, st.LastCutover)
	}
	if _, err := p.c.ask(router.Target, admin.SwitchRequest{WhenReady: true}); err != nil {
		t.Errorf("a rollback when ready: %v", err)
	}
	p.awaitSide(router.Source)
}

// TestWhenReadyGivesUp: in time, after its attempts, and when it is aborted; each time
// the status says why.
func TestWhenReadyGivesUp(t *testing.T) {
	p := newPair(t, "", "--cutover.retry_wait", "10ms")
	p.link.SetDelay(400 * time.Millisecond)
	p.c.await("a lag", func(s migration.Status) bool { return s.LagMS > 500 })
	dropped := func(why string) {
		t.Helper()
		st := p.c.await("no waiting", func(s migration.Status) bool { return s.Waiting == nil })
		if st.Side != router.Source || st.Dropped == nil || st.Dropped.Verb != "cutover" || !strings.Contains(st.Dropped.Why, why) {
			t.Errorf("the status: %+v", st.Dropped)
		}
	}
	var answered *admin.Error
	_, err := p.c.ask(router.Source, admin.SwitchRequest{WhenReady: true, Timeout: "300ms"})
	if !errors.As(err, &answered) || answered.Code != 409 || !strings.Contains(strings.Join(answered.Reasons, " "), "within 300ms") {
		t.Errorf("not ready in time: %v", err)
	}
	dropped("the lag is")

	p.leave(t, admin.SwitchRequest{WhenReady: true, Timeout: "0s"})
	if w := p.awaitWaitingFor(t, "lag").Waiting; w.Until != nil {
		t.Errorf("for ever: %v", w.Until)
	}
	if _, err := p.c.admin.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	dropped("aborted by the operator")

	p.link.SetDelay(2 * time.Millisecond)
	before := [2]traces{tracesOf(t, p.src), tracesOf(t, p.dst)}
	two := 2
	_, err = p.c.ask(router.Source, admin.SwitchRequest{WhenReady: true, MaxStall: "1ms", Retries: &two})
	if !errors.As(err, &answered) || answered.Report == nil || !strings.Contains(err.Error(), "stall budget") {
		t.Errorf("three attempts that take too long: %v", err)
	}
	dropped("the stall budget is used up")
	mustBeGone(t, "three attempts", before, p.src, p.dst)
	if n := strings.Count(string(must[[]byte](t)(os.ReadFile(p.c.logs))), "the switch is taken back"); n != 3 {
		t.Errorf("%d attempts were taken back, want 3", n)
	}

	// The next one clears what became of the last one, and can be made.
	if _, err := p.c.ask(router.Source, admin.SwitchRequest{WhenReady: true}); err != nil {
		t.Fatal(err)
	}
	if st := p.awaitSide(router.Target); st.Dropped != nil {
		t.Errorf("still: %+v", st.Dropped)
	}
}

// TestRetriesUntilItFits: the attempts go on until one is quick enough.
func TestRetriesUntilItFits(t *testing.T) {
	p := newPair(t, "", "--cutover.retry_wait", "200ms")
	p.link.SetDelay(60 * time.Millisecond)
	many := 1000
	p.leave(t, admin.SwitchRequest{MaxStall: "100ms", MaxLag: "10s", Retries: &many})
	st := p.awaitWaitingFor(t, "attempt 2 of 1001 was taken back")
	if st.Waiting.Failed != 2 {
		t.Errorf("the status: %+v", st.Waiting)
	}
	p.link.SetDelay(0)
	// A machine that is busy may need some more.
	p.awaitSide(router.Target)
}

// TestCutoverAtATime waits for the clock.
func TestCutoverAtATime(t *testing.T) {
	p := newPair(t, "")
	at := time.Now().Add(3 * time.Second).Truncate(time.Second)
	p.leave(t, admin.SwitchRequest{At: at.UTC().Format(time.RFC3339)})
	if w := p.awaitWaitingFor(t, "the time for it").Waiting; w.At == nil || !w.At.Equal(at) || !w.Until.Equal(at.Add(time.Hour)) {
		t.Errorf("the status: %+v", w)
	}
	st := p.awaitSide(router.Target)
	if st.LastCutover.Started.Before(at) {
		t.Errorf("begun at %v, it was to wait until %v", st.LastCutover.Started, at)
	}
	var answered *admin.Error
	_, err := p.c.ask(router.Target, admin.SwitchRequest{At: "2026-01-01T00:00:00Z"})
	if !errors.As(err, &answered) || answered.Code != 409 || !strings.Contains(err.Error(), "is past") {
		t.Errorf("a time that is past: %v", err)
	}
}

// TestPostponeFile holds a cutover, a rollback it does not; and the waiting outlives
// the sidecar, however that ends.
func TestPostponeFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "postpone")
	p := newPair(t, "", "--cutover.postpone_file", file)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]admin.SwitchRequest{"a dry run": {DryRun: true}, "a rehearsal": {Rehearse: true}} {
		if _, err := p.c.ask(router.Source, o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.leave(t, admin.SwitchRequest{})
	p.awaitWaitingFor(t, "cutover.postpone_file")
	made := must[migration.Status](t)(p.c.status()).Waiting.Since

	for _, end := range []func(){func() { // in order, while it is kept for who asked
		if err := p.c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = p.c.awaitExit(20 * time.Second)
	}, p.c.kill} {
		end()
		p.c.start("")
		if w := p.awaitWaitingFor(t, "cutover.postpone_file").Waiting; !w.Since.Equal(made) {
			t.Errorf("after a restart it waits since %v, it was %v", w.Since, made)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.awaitSide(router.Target)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.c.rollback(); err != nil {
		t.Errorf("a rollback is held by the file: %v", err)
	}
}

// TestPostponedInTheLastMoment: the file is looked at until clients would wait.
func TestPostponedInTheLastMoment(t *testing.T) {
	file, here := filepath.Join(t.TempDir(), "postpone"), filepath.Join(t.TempDir(), "here")
	p := newPair(t, "cutover.lag-gate:before#1=wait:"+here, "--cutover.postpone_file", file, "--cutover.wait_ready", "500ms")
	s := &stage{t: t, c: p.c}
	err := s.faultAt(router.Source, here, func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	var answered *admin.Error
	if !errors.As(err, &answered) || answered.Code != 409 || !strings.Contains(err.Error(), "cutover.postpone_file") {
		t.Errorf("the attempt ended with %v", err)
	}
}

// TestWaitingAcrossARestart: what must not happen when the sidecar comes back is that
// a switch is made which nobody expects any more.
func TestWaitingAcrossARestart(t *testing.T) {
	t.Run("too late", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "")
		p.leave(t, admin.SwitchRequest{At: time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339), Timeout: "10ms"})
		p.c.kill()
		until := time.Now().Add(2200 * time.Millisecond)
		redistest.Eventually(t, 10*time.Second, func() bool { return time.Now().After(until) }, "the time to pass")
		p.c.start("")
		st := p.c.await("dropped", func(s migration.Status) bool { return s.Dropped != nil && s.Ready })
		if st.Side != router.Source || st.Waiting != nil || !strings.Contains(st.Dropped.Why, "was not running until its time was over") {
			t.Errorf("the status: %+v", st.Dropped)
		}
	})
	for _, step := range []string{"prepare", "drain-1", "journal"} {
		t.Run("killed in "+step, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, "cutover."+step+":before#1=kill")
			if _, err := p.c.ask(router.Source, admin.SwitchRequest{WhenReady: true}); err == nil {
				t.Fatal("it was to die")
			}
			_ = p.c.awaitExit(20 * time.Second)
			p.c.start("")
			st := p.c.await("dropped", func(s migration.Status) bool { return s.Dropped != nil && s.Ready })
			if st.Side != router.Source || st.Waiting != nil || !strings.Contains(st.Dropped.Why, "in the middle of an attempt") {
				t.Errorf("the status: %+v", st.Dropped)
			}
		})
	}
	t.Run("killed behind the decision", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "cutover.commit:before#1=kill")
		if _, err := p.c.ask(router.Source, admin.SwitchRequest{WhenReady: true}); err == nil {
			t.Fatal("it was to die")
		}
		_ = p.c.awaitExit(20 * time.Second)
		p.c.start("")
		if st := p.awaitSide(router.Target); st.Dropped != nil {
			t.Errorf("it was made, and is called dropped: %+v", st.Dropped)
		}
	})
}

// TestDryRunAndRehearsal: both go back to where they came from, a rehearsal says what
// the switch would cost, and clients notice no more than a short stall.
func TestDryRunAndRehearsal(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0,3=5"})
	c.start("")
	c.awaitReady()
	through := startLoad(t, history.Config{Addr: c.addr, Databases: []int{0, 3}, Writers: 6, Prefix: "app", MaxRate: 400})
	direct := startLoad(t, history.Config{Addr: src.Addr(), Databases: []int{0}, Writers: 1, Prefix: "direct", MaxRate: 200})
	redistest.Eventually(t, 20*time.Second, func() bool { return through.h.Stats().Acked > 300 }, "the writers")
	blocked := redis.NewClient(&redis.Options{Addr: c.addr, ReadTimeout: time.Minute})
	t.Cleanup(func() { _ = blocked.Close() })
	popped := make(chan error, 1)
	go func() { popped <- blocked.BLPop(context.WithoutCancel(t.Context()), 0, "waited:for").Err() }()
	before := [2]traces{tracesOf(t, src), tracesOf(t, dst)}
	for i := range 5 {
		c.awaitReady()
		dry := must[migration.Report](t)(c.ask(router.Source, admin.SwitchRequest{DryRun: true}))
		if got := stepsOf(dry); !slices.Equal(got, []string{"preflight", "prepare", "replicas", "lag-gate"}) || dry.Held != 0 || !dry.OK || !dry.DryRun {
			t.Errorf("a dry run: %+v", dry)
		}
		mustBeGone(t, fmt.Sprint("dry run ", i), before, src, dst)
		c.awaitReady()
		r := must[migration.Report](t)(c.ask(router.Source, admin.SwitchRequest{Rehearse: true}))
		want := []string{"preflight", "prepare", "replicas", "lag-gate", "hold", "soft-fence", "drain-1", "drain-2", "check", "hard-fence", "journal", "commit"}
		if got := stepsOf(r); !slices.Equal(got, want) || !r.OK || !r.Rehearsal || r.Checked == 0 || r.Held <= 0 || r.Estimate <= r.Held || len(r.Findings) > 0 {
			t.Errorf("a rehearsal: %+v", r)
		}
		for _, s := range r.Steps {
			if s.Estimated != slices.Contains(want[9:], s.Name) {
				t.Errorf("a rehearsal's step: %+v", s)
			}
		}
		t.Logf("rehearsal %d: held %.1f ms, the longest stall %.1f ms, the switch about %.1f ms", i, r.Held, r.Stall.Max, r.Estimate)
		mustBeGone(t, fmt.Sprint("rehearsal ", i), before, src, dst)
	}
	var answered *admin.Error
	if _, err := c.ask(router.Source, admin.SwitchRequest{Rehearse: true, WhenReady: true}); !errors.As(err, &answered) || answered.Code != 409 {
		t.Errorf("a rehearsal that waits: %v", err)
	}
	if st := must[migration.Status](t)(c.status()); st.Side != router.Source || st.Epoch != 0 {
		t.Fatalf("the clients were moved: %+v", st)
	}
	if err := blocked.RPush(t.Context(), "waited:for", "x").Err(); err != nil {
		t.Fatal(err)
	}
	if err := <-popped; err != nil {
		t.Errorf("a client that was blocked: %v", err)
	}
	for name, l := range map[string]*load{"the proxy": through, "the source": direct} {
		if st := l.h.Stats(); st.Errors > 0 || st.Refused > 0 {
			t.Errorf("clients of %s: %d errors, %d refusals, the last: %s", name, st.Errors, st.Refused, st.LastError)
		}
	}
	// The same on the other side, and then the switches themselves.
	c.awaitReady()
	must[migration.Report](t)(c.cutover())
	c.awaitReady()
	if r, err := c.ask(router.Target, admin.SwitchRequest{Rehearse: true}); err != nil || r.From != router.Target || r.Estimate <= 0 {
		t.Errorf("a rehearsal of a rollback: %+v, %v", r, err)
	}
	c.awaitReady()
	must[migration.Report](t)(c.rollback())
	c.awaitReady()
	through.mustHold(t, src.Addr(), func(db int) int { return db })
	direct.mustHold(t, src.Addr(), func(db int) int { return db })
}

func stepsOf(r migration.Report) (names []string) {
	for _, s := range r.Steps {
		names = append(names, s.Name)
	}
	return names
}
