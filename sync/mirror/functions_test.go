package mirror_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// shelf is one that outlives mirrors.
type shelf struct {
	mu sync.Mutex
	l  mirror.Libraries
}

func (s *shelf) Libraries() mirror.Libraries {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.l)
}

func (s *shelf) Keep(_ context.Context, l mirror.Libraries) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.l = maps.Clone(l)
	return nil
}

// lib is a library whose functions answer a number.
func lib(name string, answer int, functions ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#!lua name=%s\n", name)
	for _, f := range functions {
		fmt.Fprintf(&b, "redis.register_function('%s', function() return %d end)\n", f, answer)
	}
	return b.String()
}

// carry is CarryFunctions of a mirror that nobody has started.
func carry(t *testing.T, m *mirror.Mirror) error {
	t.Helper()
	ok(t, m.FollowNow(t.Context()))
	return m.CarryFunctions(t.Context())
}

func load(t *testing.T, s *redistest.Server, codes ...string) {
	t.Helper()
	for _, code := range codes {
		ok(t, s.Client(0).FunctionLoadReplace(t.Context(), code).Err())
	}
}

func drop(t *testing.T, s *redistest.Server, names ...string) {
	t.Helper()
	for _, name := range names {
		ok(t, s.Client(0).FunctionDelete(t.Context(), name).Err())
	}
}

// wantLibraries compares a server's libraries with these.
func wantLibraries(t *testing.T, s *redistest.Server, codes ...string) {
	t.Helper()
	var got []string
	for _, l := range s.Client(0).FunctionList(t.Context(), redis.FunctionListQuery{WithCode: true}).Val() {
		got = append(got, l.Code)
	}
	slices.Sort(got)
	slices.Sort(codes)
	if !slices.Equal(got, codes) {
		t.Fatalf("there is\n%q, want\n%q", got, codes)
	}
}

// An app's deployment may give a library another name, or move functions between two: then
// one cannot be loaded while the other is there.
func TestFunctionsThatChangeTheirLibrary(t *testing.T) {
	for name, tt := range map[string]struct{ before, after []string }{
		"renamed":       {[]string{lib("one", 1, "f", "g")}, []string{lib("two", 2, "f", "g")}},
		"renamed twice": {[]string{lib("one", 1, "f"), lib("two", 1, "g")}, []string{lib("two", 2, "f"), lib("three", 2, "g")}},
		"exchanged":     {[]string{lib("one", 1, "f"), lib("two", 1, "g")}, []string{lib("one", 2, "g"), lib("two", 2, "f")}},
		"moved":         {[]string{lib("one", 1, "f"), lib("two", 1, "g")}, []string{lib("one", 2, "f", "g"), lib("two", 2, "h")}},
		"divided":       {[]string{lib("one", 1, "f", "g")}, []string{lib("two", 2, "f"), lib("three", 2, "g")}},
		"united":        {[]string{lib("one", 1, "f"), lib("two", 1, "g")}, []string{lib("three", 2, "f", "g")}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			theirs := lib("theirs", 3, "t")
			load(t, w.src, tt.before...)
			load(t, w.dst, theirs)
			ok(t, carry(t, w.m))
			wantLibraries(t, w.dst, append(tt.before, theirs)...)
			ok(t, w.src.Client(0).FunctionFlush(t.Context()).Err())
			load(t, w.src, tt.after...)
			ok(t, carry(t, w.m))
			wantLibraries(t, w.dst, append(tt.after, theirs)...)
		})
	}
}

// A library that the other side cannot take does not take away what is there.
func TestFunctionsStayWhereOthersCannotBeLoaded(t *testing.T) {
	w := newWorld(t, nil)
	one, theirs := lib("one", 1, "f"), lib("theirs", 3, "t")
	load(t, w.src, one)
	load(t, w.dst, theirs)
	ok(t, carry(t, w.m))
	drop(t, w.src, "one")
	two, good := lib("two", 2, "f", "t"), lib("good", 4, "h")
	load(t, w.src, two, good)
	err := carry(t, w.m)
	if err == nil || !strings.Contains(err.Error(), `its function "t" is in library "theirs" there`) || !strings.Contains(err.Error(), "FUNCTION DELETE") {
		t.Fatalf("the clash is told as %v", err)
	}
	wantLibraries(t, w.dst, theirs, good)
	drop(t, w.dst, "theirs")
	ok(t, carry(t, w.m))
	wantLibraries(t, w.dst, two, good)
}

// What is deleted while no mirror runs is deleted on the other side by the next one.
func TestFunctionsDeletedBetweenTwoRuns(t *testing.T) {
	kept := &shelf{l: mirror.Libraries{}}
	w := newWorld(t, func(c *mirror.Config) { c.Shelf = kept })
	gone, stays, theirs := lib("gone", 1, "f"), lib("stays", 1, "g"), lib("theirs", 3, "t")
	load(t, w.src, gone, stays)
	load(t, w.dst, theirs)
	ok(t, carry(t, w.m))
	wantLibraries(t, w.dst, gone, stays, theirs)
	w.m.Stop()
	drop(t, w.src, "gone")
	w.connect(t, w.src.Addr(), w.dst.Addr(), func(c *mirror.Config) { c.Shelf = kept })
	ok(t, carry(t, w.m))
	wantLibraries(t, w.dst, stays, theirs)
	if want := (mirror.Libraries{"stays": mirror.Carried, "theirs": mirror.Others}); !maps.Equal(kept.l, want) {
		t.Errorf("kept is %v, want %v", kept.l, want)
	}
}

// What an older version has carried, and kept no account of, is taken over.
func TestFunctionsOfAnOlderVersion(t *testing.T) {
	kept := &shelf{}
	w := newWorld(t, func(c *mirror.Config) { c.Shelf = kept })
	load(t, w.src, lib("ours", 2, "f"))
	load(t, w.dst, lib("ours", 1, "f"), lib("theirs", 3, "t"))
	ok(t, carry(t, w.m))
	wantLibraries(t, w.dst, lib("ours", 2, "f"), lib("theirs", 3, "t"))
}

// Libraries that were on the target before are nobody's to delete, overwrite or carry back.
func TestOthersFunctionsAreLeftAlone(t *testing.T) {
	kept := &shelf{l: mirror.Libraries{}}
	w := newWorld(t, func(c *mirror.Config) { c.Shelf = kept })
	ours, alike, theirs, named := lib("ours", 1, "f"), lib("alike", 1, "a"), lib("theirs", 3, "t"), lib("named", 3, "n")
	load(t, w.src, ours, alike)
	load(t, w.dst, alike, theirs, named)
	ok(t, carry(t, w.m))
	wantLibraries(t, w.dst, ours, alike, theirs, named)

	// A clash of names is told, and everything else is carried all the same.
	clash := func(want string) {
		t.Helper()
		if err := carry(t, w.m); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "FUNCTION DELETE") {
			t.Fatalf("the clash is told as %v", err)
		}
	}
	load(t, w.src, lib("named", 1, "mine"), lib("other", 1, "o"))
	clash(`"named"`)
	wantLibraries(t, w.dst, ours, alike, theirs, named, lib("other", 1, "o"))
	drop(t, w.src, "named")
	load(t, w.src, lib("alike", 2, "a"))
	clash(`"alike"`)
	wantLibraries(t, w.dst, ours, alike, theirs, named, lib("other", 1, "o"))
	drop(t, w.src, "alike", "other")
	ok(t, carry(t, w.m))
	wantLibraries(t, w.dst, ours, alike, theirs, named)
	load(t, w.src, alike)
	ok(t, carry(t, w.m))

	// The way back brings what the applications have changed there, and nothing of others.
	w.m.Stop()
	back := func() *mirror.Mirror {
		dm, err := router.NewDBMap(map[int]int{0: 0, 3: 5})
		ok(t, err)
		nothing := func(context.Context) error { return nil }
		m := mirror.New(mirror.Config{
			From: w.to, To: w.from, Map: dm, Name: "target", Side: router.Target, Workers: 2, Batch: 64, ScanCount: 100, DirtyLimit: 1000,
			Heartbeat: 50 * time.Millisecond, Timeout: 2 * time.Second, EnsureNotifications: nothing, CheckNotifications: nothing, Shelf: kept,
		}, slog.New(slog.DiscardHandler))
		t.Cleanup(m.Stop)
		return m
	}
	m := back()
	ok(t, carry(t, m))
	wantLibraries(t, w.src, ours, alike)
	load(t, w.dst, lib("alike", 5, "a"), lib("fresh", 5, "x"))
	ok(t, carry(t, m))
	wantLibraries(t, w.src, ours, lib("alike", 5, "a"), lib("fresh", 5, "x"))
	m.Stop()
	drop(t, w.dst, "ours", "alike", "theirs")
	m = back()
	ok(t, carry(t, m))
	wantLibraries(t, w.src, lib("fresh", 5, "x"))
	wantLibraries(t, w.dst, lib("fresh", 5, "x"), named)
}

// What is to be compared before a commit: the libraries that the other side should have, and
// those that it should have no longer; others' are nobody's business. Nothing is changed.
func TestLibrariesAreCompared(t *testing.T) {
	w := newWorld(t, nil)
	load(t, w.dst, lib("theirs", 9, "t"))
	load(t, w.src, lib("ours", 1, "f"))
	differ := func(want bool) {
		t.Helper()
		if err := w.m.CompareFunctions(t.Context()); (err != nil) != want {
			t.Errorf("comparing: %v", err)
		}
	}
	ok(t, carry(t, w.m))
	differ(false)
	load(t, w.src, lib("ours", 2, "f"))
	differ(true)
	wantLibraries(t, w.dst, lib("ours", 1, "f"), lib("theirs", 9, "t"))
	ok(t, carry(t, w.m))
	differ(false)
	drop(t, w.dst, "ours")
	differ(true)
	ok(t, carry(t, w.m))
	drop(t, w.src, "ours")
	differ(true)
	wantLibraries(t, w.dst, lib("ours", 2, "f"), lib("theirs", 9, "t"))
	ok(t, carry(t, w.m))
	differ(false)
}

// A library that names databases stays where its words mean what they say.
func TestFunctionsThatNameDatabasesAreNotCarried(t *testing.T) {
	leaves := "#!lua name=leaves\nredis.register_function('l', function() return redis.call('SELECT', 5) end)"
	w := newWorld(t, nil)
	load(t, w.src, leaves, lib("ours", 1, "f"))
	ok(t, carry(t, w.m))
	wantLibraries(t, w.dst, lib("ours", 1, "f"))
	load(t, w.src, lib("leaves", 1, "l"))
	ok(t, carry(t, w.m))
	load(t, w.src, leaves)
	ok(t, carry(t, w.m))
	wantLibraries(t, w.dst, lib("ours", 1, "f"))

	whole := newWorld(t, func(c *mirror.Config) { c.Map = router.Identity(16).Within(16) })
	load(t, whole.src, leaves)
	ok(t, carry(t, whole.m))
	wantLibraries(t, whole.dst, leaves)
}

// A server that has no functions has none to bring, and others' on the target need no way back.
func TestServersWithoutFunctions(t *testing.T) {
	kept := &shelf{l: mirror.Libraries{}}
	w := newWorld(t, func(c *mirror.Config) { c.Shelf = kept })
	load(t, w.dst, lib("theirs", 3, "t"))
	old := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"), redistest.WithRenamed("FUNCTION", ""))
	w.connect(t, old.Addr(), w.dst.Addr(), func(c *mirror.Config) { c.Shelf = kept })
	ok(t, carry(t, w.m))
	if want := (mirror.Libraries{"theirs": mirror.Others}); !maps.Equal(kept.l, want) {
		t.Errorf("kept is %v, want %v", kept.l, want)
	}
	w.connect(t, w.dst.Addr(), old.Addr(), func(c *mirror.Config) { c.Shelf, c.Side = kept, router.Target })
	ok(t, carry(t, w.m))
	load(t, w.dst, lib("ours", 1, "f"))
	if err := carry(t, w.m); err == nil {
		t.Error("a library that cannot be brought is said to be")
	}
}
