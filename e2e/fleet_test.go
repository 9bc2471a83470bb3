package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/etcdtest"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/internal/redistest/linear"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/router"
)

// armada is a fleet: one sidecar that copies, others that only proxy, and clients of all.
type armada struct {
	*stage
	members []*sidecar
	looks   *lookouts
	order   *linear.History // of clients of all sidecars, on the same keys
	ordered func()          // ends it
}

// fleetSize is how many sidecars there are, and how many switches are made: E2E_FLEET=12
// asks for so many sidecars, and for 50.
func fleetSize() (sidecars, switches int) {
	if n, err := strconv.Atoi(os.Getenv("E2E_FLEET")); err == nil && n > 1 {
		return n, 50
	}
	return 4, 6
}

// member makes a sidecar that only proxies.
func (s *stage) member(name string, extra ...string) *sidecar {
	s.t.Helper()
	return newSidecar(s.t, setup{
		source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr(), extra: slices.Concat([]string{"--role", "proxy", "--instance", name}, s.meets, extra),
	})
}

// awaitOpen waits until a member serves its clients.
func (c *sidecar) awaitOpen(side router.Side) {
	c.tb.Helper()
	c.await("serving on the "+side.String(), func(st migration.Status) bool {
		return st.State == string(fleet.Open) && st.Side == side
	})
}

// newArmada starts a fleet of n sidecars on direct addresses, and its clients; extra is for
// the one that copies. They meet on the target, or with E2E_FLEET_STORE=etcd in an etcd.
func newArmada(t *testing.T, n int, failpoints string, extra ...string) *armada {
	t.Helper()
	if os.Getenv("E2E_FLEET_STORE") == "etcd" {
		return newArmadaIn(t, n, failpoints, inEtcd(etcdtest.Start(t, nil).Addr()), extra...)
	}
	return newArmadaIn(t, n, failpoints, nil, extra...)
}

// inEtcd are the flags of sidecars that meet in an etcd.
func inEtcd(addr string) []string {
	return []string{"--fleet.store", "etcd", "--fleet.etcd.endpoints", "http://" + addr}
}

// newArmadaIn is newArmada whose sidecars have flags that say where they meet.
func newArmadaIn(t *testing.T, n int, failpoints string, meets []string, extra ...string) *armada {
	t.Helper()
	a := &armada{stage: newServers(t, keeping, keeping)}
	a.meets = meets
	a.c = newSidecar(t, setup{
		source: "redis://" + a.src.Addr(), target: "redis://" + a.dst.Addr(), extra: slices.Concat([]string{"--cutover.max_stall", "5s"}, meets, extra),
	})
	a.c.start(failpoints)
	a.c.awaitReady()
	var addrs []string
	if !slices.Contains(extra, "--sync-only") {
		addrs = append(addrs, a.c.addr)
	}
	for i := range n - 1 {
		m := a.member(fmt.Sprintf("member-%d", i), "--cutover.max_stall", "5s")
		m.start("")
		a.members = append(a.members, m)
		addrs = append(addrs, m.addr)
	}
	for _, m := range a.members {
		m.awaitOpen(router.Source)
	}
	a.allAlive()
	a.looks = watchFrom(t, addrs)
	a.order = linear.New(linear.Config{Addrs: addrs, Clients: 2 * n, Rate: 50, OpTimeout: 30 * time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.order.Run(ctx) }()
	a.ordered = func() { cancel(); <-ended }
	t.Cleanup(a.ordered)
	a.through = startLoad(t, history.Config{Addrs: addrs, Writers: 3 * n, MaxRate: 100, OpTimeout: 30 * time.Second})
	a.direct = startLoad(t, history.Config{Addr: a.src.Addr(), Writers: 1, MaxRate: 100, OpTimeout: 30 * time.Second})
	a.goOn(200)
	return a
}

// allAlive waits until the one that copies has heard of all members.
func (a *armada) allAlive() {
	a.t.Helper()
	a.c.await("all members are known", func(st migration.Status) bool {
		alive := 0
		for _, m := range st.Members {
			if m.Alive {
				alive++
			}
		}
		return alive >= len(a.members)
	})
}

// settle checks everything at the end, which is on side.
func (a *armada) settle(side router.Side, lossy bool) {
	a.t.Helper()
	a.goOn(100)
	a.looks.mustHold(lossy)
	a.ordered()
	if !lossy { // a client whose sidecar is killed knows too little of what it has done
		if err := errors.Join(a.order.Errors(), a.order.Check(2*time.Minute)); err != nil {
			a.t.Errorf("the whole fleet as one server: %v", err)
		}
	}
	n, unknown := a.order.Ops()
	a.t.Logf("%d operations on shared keys, %d of them with an unknown outcome", n, unknown)
	server := a.src
	if side == router.Target {
		server = a.dst
	}
	same := func(db int) int { return db }
	report := a.through.mustHold(a.t, server.Addr(), same)
	a.direct.mustHold(a.t, server.Addr(), same)
	a.t.Logf("the fleet's history: %s", report)
	for _, m := range a.members {
		m.awaitOpen(side)
	}
	a.c.end(side == router.Source)
	redistest.Eventually(a.t, time.Minute, func() error {
		for _, server := range []*redistest.Server{a.src, a.dst} {
			if keys := server.Client(0).Keys(context.Background(), "crossfade:*").Val(); len(keys) > 0 {
				return fmt.Errorf("left behind: %q", keys)
			}
		}
		return nil
	}, "nothing of ours is left on the servers")
	for _, m := range a.members { // they serve on, where the applications are
		c := (&lookouts{}).client(m.addr)
		err := c.Set(context.Background(), "after", m.addr, 0).Err()
		_ = c.Close()
		if got := server.Client(0).Get(context.Background(), "after").Val(); err != nil || got != m.addr {
			a.t.Errorf("a member after the end: %v, %q", err, got)
		}
	}
}

// TestFleetSwitches has all sidecars of a fleet moved there and back, under load and with a
// writer past them.
func TestFleetSwitches(t *testing.T) {
	t.Parallel()
	n, switches := fleetSize()
	a := newArmada(t, n, "")
	var stalls, quiet, held []time.Duration
	side := router.Source
	for i := range switches {
		a.c.awaitReady()
		quiet = append(quiet, a.looks.longest())
		a.mustSwitch(side)
		side = side.Other()
		for _, m := range a.members {
			m.awaitOpen(side)
		}
		stalls = append(stalls, a.looks.longest())
		st := must[migration.Status](t)(a.c.status())
		r := st.LastCutover
		if r == nil || r.Fleet == nil || r.Fleet.Members < len(a.members) {
			t.Fatalf("switch %d: the report says of the fleet: %+v", i, r)
		}
		if r.Fleet.Held < len(a.members) {
			t.Logf("switch %d: %d of %d held their clients: %q", i, r.Fleet.Held, len(a.members), r.Fleet.Missing)
		}
		held = append(held, time.Duration(r.Held*float64(time.Millisecond)))
		a.goOn(50)
	}
	t.Logf("%d switches of %d sidecars: the longest operation of any client took %v in the middle, %v at most; between switches %v, %v; the hold itself %v, %v",
		switches, n, median(stalls), maxOf(stalls), median(quiet), maxOf(quiet), median(held), maxOf(held))
	a.settle(side, false)
}

func maxOf(list []time.Duration) (most time.Duration) {
	for _, d := range list {
		most = max(most, d)
	}
	return most
}

// TestFleetBehindADedicatedSyncer: the one that copies serves nobody (--sync-only), and
// switches the others' clients.
func TestFleetBehindADedicatedSyncer(t *testing.T) {
	t.Parallel()
	a := newArmada(t, 4, "", "--sync-only")
	if c, err := net.DialTimeout("tcp", a.c.addr, time.Second); err == nil {
		_ = c.Close()
		t.Errorf("somebody listens for clients at %s", a.c.addr)
	}
	side := router.Source
	for range 4 {
		a.c.awaitReady()
		a.mustSwitch(side)
		side = side.Other()
		for _, m := range a.members {
			m.awaitOpen(side)
		}
		a.goOn(50)
	}
	if st := must[migration.Status](t)(a.c.status()); st.LastCutover == nil || st.LastCutover.Fleet == nil || st.LastCutover.Fleet.Held < len(a.members) {
		t.Errorf("the report says of the fleet: %+v", st.LastCutover)
	}
	a.settle(side, false)
}

// TestFleetSleeper: a member is stopped in the middle of its clients' work for a whole
// switch, and wakes up behind it. Its clients' commands are run once, where they belong.
func TestFleetSleeper(t *testing.T) {
	t.Parallel()
	a := newArmada(t, 3, "")
	sleeper := a.members[0]
	side := router.Source
	for range 4 {
		a.c.awaitReady()
		sleeper.signal(syscall.SIGSTOP)
		redistest.Eventually(t, time.Minute, sleeper.stopped, "the member stops")
		// Its clients have something in hand with it.
		a.mustSwitch(side)
		side = side.Other()
		a.members[1].awaitOpen(side)
		sleeper.signal(syscall.SIGCONT)
		sleeper.awaitOpen(side)
		a.goOn(100)
	}
	a.settle(side, false)
}

// TestFleetWriteInHand: a member wakes up behind a switch with writes in hand, and hears of
// that only once the source has refused them. They are said again on the target, and each
// client sees one success.
func TestFleetWriteInHand(t *testing.T) {
	t.Parallel()
	onlooker := redistest.WithACL("onlooker on >secret allchannels -@all +slaveof +info +ping") // like sentinels: not fenced
	s := newServers(t, append([]redistest.Option{onlooker}, keeping...), keeping)
	link := s.links[router.Target]
	m := s.twoByLinks("sleeper")
	m.awaitOpen(router.Source)
	ctx := context.Background()
	plain, queues := (&lookouts{}).client(m.addr), (&lookouts{}).client(m.addr)
	defer func() { _, _ = plain.Close(), queues.Close() }()
	if err := errors.Join(plain.Ping(ctx).Err(), queues.Ping(ctx).Err()); err != nil {
		t.Fatal(err)
	}
	m.signal(syscall.SIGSTOP)
	redistest.Eventually(t, time.Minute, m.stopped, "the member stops")
	results := make(chan error, 2)
	go func() {
		n, err := plain.Incr(ctx, "once").Result()
		if err == nil && n != 1 {
			err = fmt.Errorf("once is %d", n)
		}
		results <- err
	}()
	go func() {
		var n *redis.IntCmd
		_, err := queues.TxPipelined(ctx, func(p redis.Pipeliner) error {
			n = p.RPush(ctx, "queued", "x")
			return nil
		})
		if err == nil && n.Val() != 1 {
			err = fmt.Errorf("queued has %d", n.Val())
		}
		results <- err
	}()
	redistest.Eventually(t, time.Minute, func() error { return s.switchOnce(router.Source) }, "a cutover without the member")
	link.Stall(true) // what the member would hear it from
	m.signal(syscall.SIGCONT)
	seen := s.src.ClientAs("onlooker", "secret", 0)
	redistest.Eventually(t, time.Minute, func() error {
		text, err := seen.Info(ctx, "commandstats").Result()
		if err == nil && (!hasRefused(text, "incr") || !hasRefused(text, "exec")) {
			err = errors.New(text)
		}
		return err
	}, "the source has refused what it was sent")
	link.Stall(false)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	m.awaitOpen(router.Target)
	c := s.dst.Client(0)
	if once, queued := c.Get(ctx, "once").Val(), c.LLen(ctx, "queued").Val(); once != "1" || queued != 1 {
		t.Errorf("on the target there is %q, %d", once, queued)
	}
	s.c.end(false)
	if text := s.src.Client(0).Info(ctx, "commandstats").Val(); !strings.Contains(text, "cmdstat_incr:calls=0,") {
		t.Errorf("the source has run what it was sent: %s", text)
	}
}

// hasRefused reports whether a server's count of commands has one that was refused.
func hasRefused(stats, command string) bool {
	_, line, there := strings.Cut(stats, "cmdstat_"+command+":")
	line, _, _ = strings.Cut(line, "\r\n")
	return there && !strings.Contains(line, "rejected_calls=0")
}

// switchUnderASleeper stops a member, with a write of "late" to k in hand that came behind one
// of "early", and moves the others to the target. What becomes of the write is told once.
func (s *stage) switchUnderASleeper(m *sidecar) (c *redis.Client, late <-chan error) {
	s.t.Helper()
	ctx := context.Background()
	c = (&lookouts{}).client(m.addr)
	s.t.Cleanup(func() { _ = c.Close() })
	if err := c.Set(ctx, "k", "early", 0).Err(); err != nil {
		s.t.Fatal(err)
	}
	m.signal(syscall.SIGSTOP)
	redistest.Eventually(s.t, time.Minute, m.stopped, "the member stops")
	result := make(chan error, 1)
	go func() { result <- c.Set(ctx, "k", "late", 0).Err() }()
	redistest.Eventually(s.t, time.Minute, func() error { return s.switchOnce(router.Source) }, "a cutover without the member")
	s.c.awaitReady()
	return c, result
}

// TestFleetNotEndedUnderASleeper: the source is not opened under a member that sleeps, also
// where nothing tells of it but its connections; what it has in hand is not lost.
func TestFleetNotEndedUnderASleeper(t *testing.T) {
	t.Parallel()
	s := newServers(t, keeping, keeping)
	s.c = newSidecar(t, setup{source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr()})
	s.c.start("")
	s.c.awaitReady()
	m := s.member("sleeper")
	m.start("")
	m.awaitOpen(router.Source)
	ctx := context.Background()
	_, result := s.switchUnderASleeper(m)
	if err := s.dst.Client(0).Del(ctx, fleet.MembersKey).Err(); err != nil { // as FLUSHALL does
		t.Fatal(err)
	}
	if _, err := s.c.admin.Complete(ctx, admin.CompleteRequest{}); err == nil || !strings.Contains(err.Error(), "has not followed") {
		t.Errorf("the migration is ended under it: %v", err)
	}
	m.signal(syscall.SIGCONT)
	if err := <-result; err != nil {
		t.Error(err)
	}
	m.awaitOpen(router.Target)
	redistest.Eventually(t, time.Minute, func() error {
		_, err := s.c.admin.Complete(ctx, admin.CompleteRequest{})
		return err
	}, "it is ended once the member has followed")
	if got := s.dst.Client(0).Get(ctx, "k").Val(); got != "late" {
		t.Errorf("on the target there is %q", got)
	}
}

// twoByLinks starts the one that copies, and a member, which reach the servers by the links.
func (s *stage) twoByLinks(name string) (member *sidecar) {
	s.t.Helper()
	by := func(extra ...string) *sidecar {
		c := newSidecar(s.t, setup{
			source: "redis://" + s.links[router.Source].Addr(), target: "redis://" + s.links[router.Target].Addr(), extra: extra,
		})
		c.start("")
		return c
	}
	s.c = by()
	s.c.awaitReady()
	return by("--role", "proxy", "--instance", name)
}

// TestFleetSleepsPastTheEnd: a member that has lost its connections sleeps until the migration
// was completed without it. It cannot know where, so nothing of its clients runs anywhere.
func TestFleetSleepsPastTheEnd(t *testing.T) {
	t.Parallel()
	s := newServers(t, keeping, keeping)
	m := s.twoByLinks("sleeper")
	m.awaitOpen(router.Source)
	ctx := context.Background()
	c, result := s.switchUnderASleeper(m)
	for _, link := range s.links {
		link.Cut()
	}
	redistest.Eventually(t, time.Minute, func() error {
		_, err := s.c.admin.Complete(ctx, admin.CompleteRequest{})
		return err
	}, "it is ended: the member is not connected")
	m.signal(syscall.SIGCONT)
	m.await("it waits, and says why", func(st migration.Status) bool {
		return st.State == string(fleet.Waiting) && strings.Contains(strings.Join(st.Reasons, " "), "not looked")
	})
	_ = c.Close()
	if err := <-result; err == nil {
		t.Error("a write was acknowledged that belongs nowhere")
	}
	for _, server := range []*redistest.Server{s.src, s.dst} {
		if got := server.Client(0).Get(ctx, "k").Val(); got != "early" {
			t.Errorf("on %s there is %q", server.Addr(), got)
		}
	}
}

// TestFleetSleepsThroughTwo: a member sleeps through a switch there and one back.
func TestFleetSleepsThroughTwo(t *testing.T) {
	t.Parallel()
	a := newArmada(t, 3, "")
	sleeper := a.members[0]
	sleeper.signal(syscall.SIGSTOP)
	redistest.Eventually(t, time.Minute, sleeper.stopped, "the member stops")
	for _, from := range []router.Side{router.Source, router.Target} {
		a.c.awaitReady()
		a.mustSwitch(from)
		a.members[1].awaitOpen(from.Other())
	}
	sleeper.signal(syscall.SIGCONT)
	sleeper.await("it knows of both", func(st migration.Status) bool { return st.State == string(fleet.Open) && st.Epoch == 2 })
	a.goOn(100)
	a.settle(router.Source, false)
}

// TestFleetMemberDies: members are killed before and in the middle of switches, and others
// are started with the configuration of the beginning.
func TestFleetMemberDies(t *testing.T) {
	t.Parallel()
	a := newArmada(t, 4, "")
	side := router.Source
	for i := range 4 {
		a.c.awaitReady()
		done := make(chan error, 1)
		from := side
		go func() {
			redistest.Eventually(t, time.Minute, func() error {
				err := a.switchOnce(from)
				if outOfTime(err) {
					return err
				}
				done <- err
				return nil
			}, "a switch away from the %s", from)
		}()
		victim := a.members[i%len(a.members)]
		victim.kill()
		late := a.member(fmt.Sprintf("late-%d", i), "--cutover.max_stall", "5s")
		late.start("")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		side = side.Other()
		victim.start("")
		for _, m := range append([]*sidecar{late}, a.members...) {
			m.awaitOpen(side)
		}
		if got := must[string](t)(askThrough(late.addr)); got != "PONG" {
			t.Errorf("the late one answers %q", got)
		}
		a.goOn(50)
	}
	a.settle(side, true)
}

func askThrough(addr string) (string, error) {
	c := (&lookouts{}).client(addr)
	defer func() { _ = c.Close() }()
	return c.Ping(context.Background()).Result()
}

// TestFleetCoordinatorDies: the sidecar that copies is killed at the steps of a switch.
// The others end where the one that goes on with it says.
func TestFleetCoordinatorDies(t *testing.T) {
	places := []point{
		{router.Source, "cutover.hold:after", false},
		{router.Source, "cutover.drain-2:before", false},
		{router.Source, "cutover.commit:before", true},
		{router.Source, "cutover.release:before", true},
		{router.Target, "rollback.hold:after", false},
		{router.Target, "rollback.commit:before", true},
		{router.Target, "rollback.release:before", true},
	}
	if os.Getenv("E2E_FAILPOINTS") == "all" {
		places = nil
		for _, from := range []router.Side{router.Source, router.Target} {
			places = append(places, points(from)...)
		}
	}
	for _, at := range places {
		t.Run(at.name, func(t *testing.T) {
			t.Parallel()
			a := newArmada(t, 3, "")
			side := router.Source
			if at.from == router.Target {
				a.mustSwitch(router.Source)
				side = router.Target
			}
			a.c.kill()
			a.c.start(at.name + "=kill")
			a.c.awaitReady()
			a.allAlive()
			var exit error
			redistest.Eventually(t, time.Minute, func() error {
				err := a.switchOnce(at.from)
				if a.c.running() && outOfTime(err) {
					return err
				}
				exit = a.c.awaitExit(time.Minute)
				return nil
			}, "it dies in the switch")
			if exit == nil {
				t.Fatal("it has not died")
			}
			a.c.start("")
			if at.decided {
				side = side.Other()
			}
			if st := a.c.awaitReady(); st.Side != side {
				t.Fatalf("the applications are on the %s, want the %s", st.Side, side)
			}
			for _, m := range a.members {
				m.awaitOpen(side)
			}
			a.goOn(100)
			a.settle(side, true)
		})
	}
}

// TestFleetNeedsTheTruth: a member serves nobody before it has read where commands go, and
// says why.
func TestFleetNeedsTheTruth(t *testing.T) {
	t.Parallel()
	s := newServers(t, keeping, keeping)
	m := s.member("early")
	m.start("")
	m.await("it says why it waits", func(st migration.Status) bool {
		return st.State == string(fleet.Starting) && len(st.Reasons) > 0 && strings.Contains(st.Reasons[0], "no migration")
	})
	s.c = newSidecar(t, setup{source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr()})
	s.c.start("")
	s.c.awaitReady()
	m.awaitOpen(router.Source)
	if _, err := m.cutover(); err == nil || !strings.Contains(err.Error(), "only proxies") {
		t.Errorf("a member switches: %v", err)
	}
	s.c.await("it is listed", func(st migration.Status) bool {
		return len(st.Members) == 1 && st.Members[0].Name == "early" && st.Members[0].Alive && st.Members[0].Version != ""
	})
	other := redistest.Start(t)
	wrong := newSidecar(t, setup{source: "redis://" + other.Addr(), target: "redis://" + s.dst.Addr(), extra: []string{"--role", "proxy"}})
	wrong.start("")
	var exit interface{ ExitCode() int }
	if err := wrong.awaitExit(time.Minute); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("a member of other servers ends with %v, want status 3", err)
	}
}
