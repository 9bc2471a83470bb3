package e2e

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

const (
	leavesMap  = "return redis.call('SELECT', 5) and redis.call('GET', 'tenant')"
	oursFirst  = "#!lua name=first\nredis.register_function('first', function() return 1 end)"
	oursSecond = "#!lua name=second\nredis.register_function('second', function() return 2 end)"
	oursLeaves = "#!lua name=leaves\nredis.register_function('leaves', function() " + leavesMap + " end)"
	theirs     = "#!lua name=theirs\nredis.register_function('theirs', function() return 3 end)"
)

// names returns a server's function libraries.
func names(t *testing.T, s *redistest.Server) string {
	t.Helper()
	list, err := s.Client(0).FunctionList(t.Context(), redis.FunctionListQuery{}).Result()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range list {
		out = append(out, l.Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestScriptsKeepToTheMap: where the target has databases that are not mapped, scripts and
// functions that go to others by their numbers are refused there by all sidecars, also after
// they were started again; where all is mapped to itself, nothing is.
func TestScriptsKeepToTheMap(t *testing.T) {
	for name, dbmap := range map[string]string{"one database": "0=0", "all": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServers(t, keeping, keeping)
			do(t, s.src.Client(0), "FUNCTION", "LOAD", oursLeaves)
			if dbmap != "" { // with another map there would be no such keys
				do(t, s.dst.Client(5), "SET", "tenant", "x")
			}
			s.c = newSidecar(t, setup{source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr(), dbmap: dbmap})
			s.c.start("")
			s.c.awaitReady()
			m := s.member("other")
			m.start("")
			m.awaitOpen(router.Source)
			for _, addr := range []string{s.c.addr, m.addr} {
				c := redis.NewClient(&redis.Options{Addr: addr})
				if err := c.ScriptLoad(t.Context(), leavesMap).Err(); err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
			}
			look := func(when string) {
				t.Helper()
				for _, addr := range []string{s.c.addr, m.addr} {
					c := redis.NewClient(&redis.Options{Addr: addr})
					for what, err := range map[string]error{
						"EVAL":          c.Eval(t.Context(), leavesMap, nil).Err(),
						"EVALSHA":       c.EvalSha(t.Context(), digest(leavesMap), nil).Err(),
						"FCALL":         c.FCall(t.Context(), "leaves", nil).Err(),
						"FUNCTION LOAD": c.FunctionLoadReplace(t.Context(), oursLeaves).Err(),
					} {
						if refused := err != nil && !errors.Is(err, redis.Nil); refused != (dbmap != "") {
							t.Errorf("%s, %s: %v", when, what, err)
						}
					}
					_ = c.Close()
				}
			}
			s.mustSwitch(router.Source)
			m.awaitOpen(router.Target)
			look("after the switch")
			m.kill()
			m.start("")
			m.awaitOpen(router.Target)
			s.c.kill()
			s.c.start("")
			s.c.awaitReady()
			look("after a restart")
			if got, want := names(t, s.dst), map[bool]string{true: "", false: "leaves"}[dbmap != ""]; got != want {
				t.Errorf("the target has the libraries %q, want %q", got, want)
			}
			s.mustSwitch(router.Target)
			if got := names(t, s.src); got != "leaves" {
				t.Errorf("the source has the libraries %q", got)
			}
		})
	}
}

// TestFunctionsBetweenRuns: what happens to function libraries while no sidecar runs is made
// up for, on both ways, and those that others have on the target stay there and nowhere else.
func TestFunctionsBetweenRuns(t *testing.T) {
	t.Parallel()
	s := newServers(t, keeping, keeping)
	for _, code := range []string{oursFirst, oursSecond} {
		do(t, s.src.Client(0), "FUNCTION", "LOAD", code)
	}
	do(t, s.dst.Client(0), "FUNCTION", "LOAD", theirs)
	s.c = newSidecar(t, setup{source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr()})
	s.c.start("")
	s.c.awaitReady()
	await := func(server *redistest.Server, want string) {
		t.Helper()
		redistest.Eventually(t, 30*time.Second, func() bool { return names(t, server) == want }, "the libraries are %q", want)
	}
	await(s.dst, "first second theirs")
	s.c.kill()
	do(t, s.src.Client(0), "FUNCTION", "DELETE", "second")
	s.c.start("")
	s.c.awaitReady()
	await(s.dst, "first theirs")
	s.mustSwitch(router.Source)
	s.c.await("it goes on", func(st migration.Status) bool { return st.Ready })
	do(t, s.dst.Client(0), "FUNCTION", "LOAD", oursSecond)
	s.c.kill()
	do(t, s.dst.Client(0), "FUNCTION", "DELETE", "first")
	s.c.start("")
	s.c.awaitReady()
	s.mustSwitch(router.Target)
	s.c.end(true) // before, the one or the other is fenced
	if got := names(t, s.src); got != "second" {
		t.Errorf("the source has the libraries %q", got)
	}
	if got := names(t, s.dst); got != "second theirs" {
		t.Errorf("the target has the libraries %q", got)
	}
}
