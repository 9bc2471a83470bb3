package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestSubscribedByASelector: the fence takes every command from a user, and a server hangs up
// on subscribers whose channels are taken away. Those that a selector gives stay.
func TestSubscribedByASelector(t *testing.T) {
	t.Parallel()
	opts := append([]redistest.Option{redistest.WithACL("app on >pw ~* resetchannels +@all (resetchannels &news:* +subscribe)")}, keeping...)
	s := newServers(t, opts, opts)
	s.c = newSidecar(t, setup{source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr()})
	s.c.start("")
	s.c.awaitReady()
	c := redis.NewClient(&redis.Options{Addr: s.c.addr, Username: "app", Password: "pw"})
	t.Cleanup(func() { _ = c.Close() })
	sub := c.Subscribe(t.Context(), "news:a")
	t.Cleanup(func() { _ = sub.Close() })
	next := func() any {
		t.Helper()
		m, err := sub.ReceiveTimeout(t.Context(), 20*time.Second)
		if err != nil { // it would subscribe again with the next call
			t.Fatal(err)
		}
		return m
	}
	next()
	for _, from := range []router.Side{router.Source, router.Target} {
		s.mustSwitch(from)
		server := map[router.Side]*redistest.Server{router.Source: s.dst, router.Target: s.src}[from]
		do(t, server.Client(0), "PUBLISH", "news:a", from.String())
		if m, ok := next().(*redis.Message); !ok || m.Payload != from.String() {
			t.Errorf("behind the switch away from the %s came %v", from, m)
		}
	}
}

// TestRightsChangedWhileASwitchWaits: what an administrator makes of the users until the fence
// goes up is what they are when it is down again.
func TestRightsChangedWhileASwitchWaits(t *testing.T) {
	t.Parallel()
	users := redistest.WithACL("less on >pw ~* &* +@all", "more on >pw ~* &* +@read", "gone on >pw ~* &* +@all")
	s := newServers(t, append([]redistest.Option{users}, keeping...), append([]redistest.Option{users}, keeping...))
	s.c = newSidecar(t, setup{source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr()})
	file := filepath.Join(t.TempDir(), "here")
	s.c.start("cutover.lag-gate:before#1=wait:" + file)
	s.c.awaitReady()
	hand := s.src.Client(0)
	list := func() []string {
		t.Helper()
		all, err := hand.Do(t.Context(), "ACL", "LIST").StringSlice()
		if err != nil {
			t.Fatal(err)
		}
		all = slices.DeleteFunc(all, func(u string) bool { return strings.HasPrefix(u, "user crossfade ") })
		slices.Sort(all)
		return all
	}
	var want []string
	err := s.faultAt(router.Source, file, func() {
		do(t, hand, "ACL", "SETUSER", "less", "-flushall")
		do(t, hand, "ACL", "SETUSER", "more", "+set")
		do(t, hand, "ACL", "SETUSER", "late", "on", ">pw", "~*", "+@all")
		do(t, hand, "ACL", "DELUSER", "gone")
		want = list()
	})
	if err != nil {
		t.Fatal(err)
	}
	s.c.end(false)
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Errorf("the users differ (-wanted +there):\n%s", diff)
	}
}

// TestKeyspaceChannels: clients of a source that tells of keys, and not only of events, hear
// of them on a target that was not told to.
func TestKeyspaceChannels(t *testing.T) {
	t.Parallel()
	s := newServers(t, append([]redistest.Option{redistest.WithConfig("notify-keyspace-events", "K$")}, keeping...), keeping)
	s.c = newSidecar(t, setup{source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr()})
	s.c.start("")
	s.c.awaitReady()
	c := redis.NewClient(&redis.Options{Addr: s.c.addr})
	t.Cleanup(func() { _ = c.Close() })
	sub := c.Subscribe(t.Context(), "__keyspace@0__:k")
	t.Cleanup(func() { _ = sub.Close() })
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears := func(when string) {
		t.Helper()
		do(t, c, "SET", "k", when)
		m, err := sub.ReceiveTimeout(t.Context(), 20*time.Second)
		if got, ok := m.(*redis.Message); err != nil || !ok || got.Payload != "set" {
			t.Errorf("%s: %v, %v", when, m, err)
		}
	}
	hears("on the source")
	s.mustSwitch(router.Source)
	hears("on the target")
	s.mustSwitch(router.Target)
	hears("back on the source")
}
