package mirror_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// scripting is a mirror whose proxy has forwarded scripts, with a stream of a group to
// acknowledge. The clients named "app" are the proxy's, those named "exporter…" only look.
type scripting struct {
	*world
	app     *redis.Client
	scripts atomic.Int64
	loads   atomic.Int64
	acks    atomic.Int64 // forwarded by themselves, and not answered yet
}

func newScripting(t *testing.T) *scripting {
	t.Helper()
	s := new(scripting)
	s.world = newWorld(t, func(c *mirror.Config) {
		c.Heartbeat = time.Minute // nobody looks but the test
		c.Silent = func() (map[string]int64, map[string]int64) {
			n, loads := s.scripts.Load(), s.loads.Load()
			return map[string]int64{"scripts": n, "function": loads, "xack": s.acks.Load()}, map[string]int64{"scripts": n, "function": loads}
		}
		c.Others = func() func(string) []string { return pastTheProxy }
	})
	s.app = s.named(t, "app")
	for i := range 10 {
		ok(t, s.app.XAdd(t.Context(), &redis.XAddArgs{Stream: "stream", ID: fmt.Sprintf("1-%d", i+1), Values: []string{"f", "v"}}).Err())
	}
	ok(t, s.app.XGroupCreate(t.Context(), "stream", "g", "0").Err())
	ok(t, s.app.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "c", Streams: []string{"stream", ">"}}).Err())
	ok(t, s.m.Follow(t.Context(), true))
	s.awaitState(t, mirror.Live)
	ok(t, s.m.CheckForeign(t.Context()))
	return s
}

func (s *scripting) named(t *testing.T, name string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.src.Addr(), ClientName: name, Protocol: 2, DisableIdentity: true, PoolSize: 1, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	ok(t, c.Ping(t.Context()).Err())
	return c
}

// pastTheProxy names those in a CLIENT LIST who are neither the mirror's nor "app".
func pastTheProxy(list string) (others []string) {
	for line := range strings.Lines(list) {
		if !strings.Contains(line, " name=crossfade:") && !strings.Contains(line, " name=app ") {
			others = append(others, strings.Fields(line)[1])
		}
	}
	return others
}

// ack has the proxy's client acknowledge in a script.
func (s *scripting) ack(t *testing.T, id string) {
	t.Helper()
	s.scripts.Add(1)
	ok(t, s.app.Eval(t.Context(), "return redis.call('xack', KEYS[1], 'g', ARGV[1])", []string{"stream"}, id).Err())
}

func (s *scripting) mustSee(t *testing.T) {
	t.Helper()
	if err := s.m.CheckForeign(t.Context()); err == nil || !strings.Contains(err.Error(), "xack") {
		t.Errorf("an XACK past the proxy: %v", err)
	}
}

// A script through the proxy is no excuse for a client past it, whether that is still
// there or not.
func TestForeignAckBesideScripts(t *testing.T) {
	for name, leaves := range map[string]bool{"stays": false, "leaves": true} {
		t.Run(name, func(t *testing.T) {
			s := newScripting(t)
			s.ack(t, "1-1")
			ok(t, s.m.CheckForeign(t.Context()))
			cron := s.named(t, "cron")
			ok(t, cron.XAck(t.Context(), "stream", "g", "1-2").Err())
			if leaves {
				ok(t, cron.Close())
				s.gone(t, "cron")
			}
			s.mustSee(t)
		})
	}
}

// Who was there at the round before and has left since may have run it as well.
func TestForeignAckOfOneWhoLeaves(t *testing.T) {
	s := newScripting(t)
	cron := s.named(t, "cron")
	s.ack(t, "1-1")
	s.mustSee(t) // nobody can tell whose it was
	s.awaitState(t, mirror.Live)
	ok(t, s.m.CheckForeign(t.Context()))
	s.ack(t, "1-2")
	ok(t, cron.XAck(t.Context(), "stream", "g", "1-3").Err())
	ok(t, cron.Close())
	s.gone(t, "cron")
	s.mustSee(t)
	s.awaitState(t, mirror.Live)
	s.ack(t, "1-4")
	ok(t, s.m.CheckForeign(t.Context()))
}

// An XACK of the proxy that is in flight hides one past it; when that is seen, who ran it
// may be gone.
func TestForeignAckHiddenByOneInFlight(t *testing.T) {
	s := newScripting(t)
	s.ack(t, "1-1")
	ok(t, s.m.CheckForeign(t.Context()))
	s.acks.Store(1)
	cron := s.named(t, "cron")
	ok(t, cron.XAck(t.Context(), "stream", "g", "1-2").Err())
	ok(t, s.m.CheckForeign(t.Context()))
	ok(t, cron.Close())
	s.gone(t, "cron")
	ok(t, s.m.CheckForeign(t.Context()))
	s.acks.Store(0) // it was refused
	s.mustSee(t)
}

// gone waits until the server knows of no client of that name.
func (s *scripting) gone(t *testing.T, name string) {
	t.Helper()
	redistest.Eventually(t, 10*time.Second, func() error {
		if list := s.app.ClientList(t.Context()).Val(); strings.Contains(list, " name="+name+" ") {
			return errors.New(list)
		}
		return nil
	}, "%s has left", name)
}

// What scripts and functions through the proxy run, nobody else being there, is no gap:
// whether the proxy has seen their text or not, and also where others come to look on.
func TestScriptsOfTheProxyAreNoGap(t *testing.T) {
	s := newScripting(t)
	ctx := t.Context()
	s.ack(t, "1-1")
	ok(t, s.m.CheckForeign(ctx))
	sum, err := s.app.ScriptLoad(ctx, "return redis.call('x' .. 'ack', KEYS[1], 'g', ARGV[1])").Result()
	ok(t, err)
	s.scripts.Add(1)
	ok(t, s.app.EvalSha(ctx, sum, []string{"stream"}, "1-2").Err())
	ok(t, s.m.CheckForeign(ctx))
	ok(t, s.app.FunctionLoad(ctx, "#!lua name=lib\nredis.register_function('ack', function(keys, args) return redis.call('XACK', keys[1], 'g', args[1]) end)").Err())
	s.loads.Add(1)
	for i := range 3 {
		s.scripts.Add(1)
		ok(t, s.app.FCall(ctx, "ack", []string{"stream"}, fmt.Sprintf("1-%d", i+3)).Err())
		ok(t, s.m.CheckForeign(ctx))
	}
	_ = s.named(t, "app") // clients of the proxy come
	s.ack(t, "1-7")
	ok(t, s.m.CheckForeign(ctx))
}
